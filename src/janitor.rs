//! Keeps the store in order in the background, on every node alike.

pub mod leases;
pub mod retention;
