//! HTTP API tests: requests against a real store, and the answers as a client reads them. Store promises are tested in
//! `conformance`, sockets and their limits in `http::listener`.

mod act;
mod auth;
mod batch;
mod create;
mod crowd;
mod docs;
mod door;
mod empty;
mod envelope;
mod event_stream;
mod explain;
mod exposition;
mod failures;
mod feed;
mod feed_lag;
mod heads;
mod health;
mod hostile;
mod idempotency;
mod leases;
mod list;
mod live_page;
mod load;
mod malformed;
mod metrics;
mod nginx;
mod places;
mod put_back;
mod read;
mod refused;
mod socket;
mod stop;
mod store_calls;
