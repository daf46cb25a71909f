//! Background maintenance of the store, run by every node.

pub mod leases;
pub mod retention;
pub mod timers;
