//! The engine in virtual time: a real store and a real worker, with the hours of a test passing in moments.

mod attempts;
mod leases;
mod order_of_start;
mod stopping;
mod world;
