//! Clients that follow the whole feed over connections that are cut again and again while the server is restarted and
//! killed: each gets every event once and in order.

mod browsers;
mod fifty_cuts;
mod fixture;
mod followers;
mod programs;
