//! `orderly` accepts orders over HTTP, answers 201 only once an order is durable, processes orders first-in first-out,
//! retries failures and reports exact metrics.
//!
//! Modules in reading order: the order itself, its storage, its processing, the servers.

#![deny(unsafe_code)]

pub mod causes;
pub mod epoch;
pub mod event;
pub mod lease;
pub mod money;
pub mod order;
pub mod order_json;
pub mod portable_json;
pub mod retry;
pub mod time;

pub mod store;

pub mod certificates;
pub mod diagnosis;

pub mod processor;
pub mod pull;

pub mod handout;
pub mod janitor;
pub mod live;
pub mod worker;

pub mod http;

pub mod config;
pub mod log_lines;
pub mod metrics;
pub mod telemetry;
pub mod tls_roots;
pub mod token_bucket;

pub mod bench;
pub mod serve;
pub mod verify;

pub mod cli;
