//! Whole servers whose orders are processed by other programs, or one after another per user.

mod answer_kinds;
mod delivery;
mod examples;
mod fixture;
mod hostile;
mod outage_log;
mod per_user;
mod pull;
mod pull_examples;
mod pull_fenced;
mod pull_killed;
pub mod receiver;
mod results;
pub mod tls;
mod waiting;
