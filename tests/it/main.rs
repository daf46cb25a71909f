//! All integration tests in one binary: store promises, the behaviour seen by clients and operators, and rules of the
//! source.

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
mod redis;
mod soak;
mod support;
mod tidy;
mod worker;
