//! The worker in virtual time: a real store and a real worker, with hours passing in moments.

mod attempts;
mod away;
mod back_off;
mod frozen;
mod leases;
mod line;
mod order_of_start;
mod outside;
mod poison;
mod protection;
mod quiet;
mod refused;
mod retention;
mod script;
mod start;
mod stopping;
mod sweeps;
mod world;
