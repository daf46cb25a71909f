//! The worker in virtual time: a real store and a real worker, with hours passing in moments.

mod attempts;
mod backoff;
mod external_workers;
mod frozen;
mod idle;
mod leases;
mod order_of_start;
mod poison;
mod protection;
mod refused;
mod retention;
mod script;
mod start;
mod stopping;
mod store_link;
mod sweeps;
mod timers;
mod unavailable_store;
mod world;
