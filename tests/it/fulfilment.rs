//! Orders processed by others, or in the order of their users, by whole servers.

mod delivery;
mod examples;
mod hostile;
mod kinds;
mod per_user;
pub mod receiver;
mod results;
mod shop;
mod tls;
mod waiting;
