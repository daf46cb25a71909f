//! All integration tests in one binary: what the store promises, what callers and operators meet, what the source keeps to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod api;
mod cli;
mod clients;
mod cluster;
mod conformance;
mod copy;
mod crash;
mod cuts;
mod fulfilment;
mod postgres;
mod soak;
mod support;
mod tidy;
mod worker;
