//! Configuration: flag over environment over `.env` over `orderly.toml` over default, merged into one validated
//! [`Config`]. The table of settings is in `config/settings.rs`; `cli/flags.rs` generates the command line flags from it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::money::Currency;
use crate::order::Ordering;
use crate::retry::RetryPolicy;

mod dot_env;
mod layers;
mod machine;
mod password_file;
mod postgres_url;
mod read;
mod redis_server;
mod service;
mod service_file;
pub mod settings;
#[cfg(test)]
mod tests;
mod values;

pub use postgres_url::{Identity, OneHost, PostgresUrl, Roots, Session, TlsMode, TlsVersions};

pub use layers::{Layers, Shown, Sources};
pub use machine::{
    is_this_machine, names_this_machine, on_this_machine, url_names_this_machine, without_brackets,
};
pub use password_file::PasswordSources;
pub use redis_server::RedisServer;
pub use service::{HttpService, ServiceUrl, SigningKey};
pub use values::{address_of, without_password};

/// Reads the configuration of `serve` from all sources.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    Layers::gather(sources).server()
}

/// A configuration and the warnings for its operator.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Warnings to log once the log is open.
    pub warnings: Vec<String>,
}

/// All problems of a configuration; never shows a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct ConfigError {
    pub problems: Vec<String>,
}

/// Validated configuration of `serve`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on: all those of the host name.
    pub listen: Vec<SocketAddr>,
    /// Name of the node for people; `None` for the machine's name and the port.
    pub node_name: Option<String>,
    pub database: Database,
    /// Redis, which hands out the work of a shared store; `None` without it.
    pub redis: Option<RedisServer>,
    /// Set to leave the database alone after some idle time, so that a serverless one can sleep.
    pub idle_sleep: bool,
    /// Set to migrate at start; otherwise an old schema is refused.
    pub migrate: bool,
    /// Maximum number of orders this node processes concurrently, 1 to 10,000.
    pub concurrency: u32,
    /// Maximum number of open client connections, 1 to 65,536.
    pub connections_max: usize,
    pub retry: RetryPolicy,
    /// Leases an order may lose to dead nodes before it is Failed as poisoned, 1 to 1,000.
    pub crashes_max: u32,
    /// Time a silent node keeps its orders, 1 s to 1 h.
    pub lease: Duration,
    /// Maximum duration of one attempt, 1 s to 24 h.
    pub attempt_timeout: Duration,
    pub processor: ProcessorChoice,
    /// Maximum attempts this node starts per second; `None` for no limit.
    pub rate_limit: Option<f64>,
    pub ordering: Ordering,
    /// Currency of orders whose request names none.
    pub currency: Option<Currency>,
    /// Drain time after SIGTERM, 0 to 1 h.
    pub shutdown_grace: Duration,
    /// Maximum number of Pending orders, beyond which new ones are refused; `None` for no limit.
    pub pending_max: Option<u64>,
    /// Age at which final orders are removed, at least one day; `None` to keep all.
    pub retention: Option<Duration>,
    pub api_key: Option<Secret>,
    pub log: LogConfig,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    Sqlite(PathBuf),
    Postgres(Box<PostgresDatabase>),
}

impl Database {
    /// Parses the URL of a store, completes a missing password from `passwords` and returns warnings for the operator.
    /// Errors never show a secret.
    pub fn parse(url: &str, passwords: &PasswordSources) -> Result<(Database, Vec<String>), String> {
        Ok(match values::database_url(url, passwords.services())? {
            values::DatabaseUrl::Sqlite(path) => (Database::Sqlite(path), Vec::new()),
            values::DatabaseUrl::Postgres(mut url, mut ignored) => {
                ignored.extend(passwords.complete(&mut url)?);
                (Database::Postgres(Box::new(PostgresDatabase::at(*url))), ignored)
            }
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresDatabase {
    /// Possibly through a pooler.
    pub url: PostgresUrl,
    /// Direct URL, past the pooler, for LISTEN and migrations.
    pub direct: Option<PostgresUrl>,
    /// URL of standbys, for lists of orders and pages of the feed.
    pub read: Option<PostgresUrl>,
}

impl PostgresDatabase {
    /// One way to it for everything.
    pub fn at(url: PostgresUrl) -> PostgresDatabase {
        PostgresDatabase {
            url,
            direct: None,
            read: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum ProcessorChoice {
    /// `speed` divides the times, 0 means at once; `failure_rate` is the share of failing attempts, 0 to 1.
    Simulated { speed: f64, failure_rate: f64 },
    /// Calls a service of the user for each attempt.
    Http(Box<HttpService>),
    /// External workers pull the orders; this node processes none.
    Pull,
}

#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `RUST_LOG` directives.
    pub filter: String,
    pub format: LogFormat,
    pub dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON lines otherwise.
    Auto,
    Text,
    Json,
}

/// Configuration of commands that talk to a running server.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `http://HOST:PORT` without a trailing slash.
    pub url: String,
    pub api_key: Option<Secret>,
}

/// A text that never appears in logs, errors or debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}
