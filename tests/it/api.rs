//! HTTP API tests: requests against a real store, and the answers as a client reads them. Store promises are tested in
//! `conformance`, sockets and their limits in `http::listener`.

mod actions;
mod auth;
mod batch;
mod connection_limit;
mod create;
mod docs;
mod documented_metrics;
mod empty;
mod envelope;
mod event_stream;
mod explain;
mod exposition;
mod failures;
mod feed;
mod feed_lag;
mod health;
mod hostile;
mod idempotency;
mod in_process;
mod leases;
mod list;
mod live_page;
mod load;
mod malformed;
mod metrics;
mod nginx;
mod raw_requests;
mod read;
mod refused;
mod restored_feed;
mod shops;
mod socket;
mod stop;
mod store_calls;
mod subscriber_limit;
