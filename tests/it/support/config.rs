//! The configuration of a server in the test process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use orderly::config::{Config, Database, LogConfig, LogFormat, ProcessorChoice};
use orderly::order::Ordering;
use orderly::retry::RetryPolicy;

/// Few slots, instant processing, any free port. The test opens the database before it starts the server.
pub fn config() -> Config {
    Config {
        redis: None,
        node_name: None,
        idle_sleep: false,
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        database: Database::Sqlite(PathBuf::from("opened by the test")),
        migrate: true,
        concurrency: 4,
        connections_max: 100,
        retry: RetryPolicy {
            attempts_max: 5,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(1),
        },
        crashes_max: 5,
        lease: Duration::from_secs(30),
        attempt_timeout: Duration::from_mins(5),
        processor: ProcessorChoice::Simulated {
            speed: 0.0,
            failure_rate: 0.0,
        },
        rate_limit: None,
        ordering: Ordering::None,
        currency: None,
        shutdown_grace: Duration::from_secs(10),
        pending_max: None,
        retention: None,
        api_key: None,
        log: LogConfig {
            filter: "error".to_owned(),
            format: LogFormat::Json,
            dir: PathBuf::from("logs"),
        },
    }
}
