//! Clients that follow everything over a line that is cut again and again, while the server is restarted and killed: each
//! hears of every event once and in order.

mod browsers;
mod followers;
mod programs;
mod shop;
mod story;
