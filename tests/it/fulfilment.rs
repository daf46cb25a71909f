//! Whole servers whose orders are processed by other programs, or one after another per user.

mod delivery;
mod examples;
mod hostile;
mod kinds;
mod per_user;
mod pull;
mod pull_examples;
mod pull_fenced;
mod pull_killed;
pub mod receiver;
mod results;
mod shop;
mod tls;
mod told;
mod waiting;
