//! Turns the gathered texts into validated configurations and reports all problems at once.

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs};

use super::layers::{Layers, Origin};
use super::settings::{RETENTION, Setting};
use super::values::{self, DatabaseUrl};
use super::{
    ClientConfig, Config, ConfigError, Database, Loaded, LogConfig, PostgresDatabase, PostgresUrl,
    RedisServer, Session, is_this_machine, without_brackets,
};
use crate::order::Ordering;
use crate::retry::RetryPolicy;

mod client;
mod processor;

pub(super) use processor::ProcessorName;

/// Shorter keys can be guessed by brute force.
const API_KEY_CHARS_ADVISED: usize = 16;

impl Layers {
    /// Returns the configuration of `serve`.
    pub fn server(&self) -> Result<Loaded, ConfigError> {
        let mut reader = Reader::new(self);
        let config = reader.server();
        let warnings = [&self.warnings[..], &reader.warnings[..]].concat();
        reader.finish(config.map(|config| Loaded { config, warnings }))
    }

    /// Returns the store for commands that open it themselves, and warnings for their users.
    pub fn database(&self) -> Result<(Database, Vec<String>), ConfigError> {
        let mut reader = Reader::new(self);
        let database = reader.database();
        let warnings = std::mem::take(&mut reader.warnings);
        reader.finish(database.map(|database| (database, warnings)))
    }

    /// Returns the configuration of commands that talk to a server.
    pub fn client(&self) -> Result<ClientConfig, ConfigError> {
        let mut reader = Reader::new(self);
        let client = reader.client();
        reader.finish(client)
    }
}

/// Reader that goes on after a problem; `None` stands for an unreadable value. The table of settings gives it a method for
/// each setting.
pub(super) struct Reader<'a> {
    layers: &'a Layers,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn new(layers: &Layers) -> Reader<'_> {
        Reader {
            layers,
            problems: layers.problems.clone(),
            warnings: Vec::new(),
        }
    }

    fn finish<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(ConfigError {
                problems: self.problems,
            }),
        }
    }

    fn server(&mut self) -> Option<Config> {
        let listen = self.listen();
        let node_name = self.node_name();
        let database = self.database();
        if let Some(Database::Postgres(database)) = &database {
            self.check_sessions(database);
        }
        let idle_sleep = self.idle_sleep();
        let migrate = self.migrate();
        let concurrency = self.concurrency();
        let connections_max = self.max_connections();
        let retry = self.retry();
        let crashes_max = self.max_crashes();
        let lease = self.lease();
        let attempt_timeout = self.attempt_timeout();
        let processor = self.processor_choice();
        let rate_limit = self.rate_limit();
        let ordering = self.ordering_of_users();
        let currency = self.currency();
        let shutdown_grace = self.shutdown_grace();
        let pending_max = self.max_pending();
        let retention = self.read("retention", |text| values::retention(text, &RETENTION));
        let api_key = self.api_key();
        let open = self.open();
        let log = self.log();
        if let (Some(listen), Some(open)) = (&listen, open) {
            self.check_access(listen, open);
        }
        self.warn_of_short_key();
        let redis = self.redis(database.as_ref());
        if let (Some(Database::Sqlite(_)), Some(true)) = (&database, idle_sleep) {
            self.warn_of_no_meaning("idle_sleep");
        }
        Some(Config {
            listen: listen?,
            node_name,
            database: database?,
            redis,
            idle_sleep: idle_sleep?,
            migrate: migrate?,
            concurrency: concurrency?,
            connections_max: connections_max?,
            retry: retry?,
            crashes_max: crashes_max?,
            lease: lease?,
            attempt_timeout: attempt_timeout?,
            processor: processor?,
            rate_limit,
            ordering: ordering?,
            currency,
            shutdown_grace: shutdown_grace?,
            pending_max,
            retention: retention?,
            api_key,
            log: log?,
        })
    }

    fn listen(&mut self) -> Option<Vec<SocketAddr>> {
        let port = self.port();
        self.read("host", |host| resolve(host, port.unwrap_or(0)))
            .filter(|_| port.is_some())
    }

    fn database(&mut self) -> Option<Database> {
        self.problems.extend_from_slice(&self.layers.problems_of_store);
        let services = self.layers.passwords.services();
        let given = self.read("database_url", |text| values::database_url(text, services))?;
        let (mut url, ignored) = match given {
            DatabaseUrl::Sqlite(path) => {
                if self.layers.get("database_direct_url").is_some() {
                    self.warn_of_no_meaning("database_direct_url");
                }
                if self.layers.get("database_read_url").is_some() {
                    let problem = format!(
                        "leads to standbys of the PostgreSQL in {}, which names none",
                        self.name("database_url")
                    );
                    self.problem("database_read_url", &problem);
                }
                return Some(Database::Sqlite(path));
            }
            DatabaseUrl::Postgres(url, ignored) => (*url, ignored),
        };
        self.warn_of("database_url", &ignored);
        self.complete("database_url", &mut url);
        let direct = self.further_url("database_direct_url");
        if let Some(direct) = &direct {
            self.warn_of_wrong_direct_url(&url, direct);
        }
        // Of several hosts a standby: the primary is asked anyway where none answers.
        let read = self.further_url("database_read_url").map(|read| PostgresUrl {
            session: read
                .session
                .or((read.hosts.len() > 1).then_some(Session::Standby)),
            ..read
        });
        Some(Database::Postgres(Box::new(PostgresDatabase {
            url,
            direct,
            read,
        })))
    }

    /// Another way to the database.
    fn further_url(&mut self, key: &'static str) -> Option<PostgresUrl> {
        let services = self.layers.passwords.services();
        let (mut url, ignored) = self.read(key, |text| PostgresUrl::parse_with(text.trim(), services))?;
        self.warn_of(key, &ignored);
        self.complete(key, &mut url);
        Some(url)
    }

    /// Requires hosts that take writes: a server must store orders.
    fn check_sessions(&mut self, database: &PostgresDatabase) {
        let urls = [
            ("database_url", Some(&database.url)),
            ("database_direct_url", database.direct.as_ref()),
        ];
        for (key, url) in urls {
            if url
                .and_then(|url| url.session)
                .is_some_and(|session| !session.may_store())
            {
                let problem = "its target_session_attrs leads to servers that store no orders: use read-write, or remove it";
                self.problem(key, problem);
            }
        }
    }

    /// Completes a password missing in the URL from other sources.
    fn complete(&mut self, key: &'static str, url: &mut PostgresUrl) {
        match self.layers.passwords.complete(url) {
            Ok(warnings) => self.warn_of(key, &warnings),
            Err(problem) => self.problem(key, &problem),
        }
    }

    fn retry(&mut self) -> Option<RetryPolicy> {
        let (attempts_max, base, cap) = (self.max_attempts(), self.retry_base(), self.retry_cap());
        let (attempts_max, base, cap) = (attempts_max?, base?, cap?);
        if base > cap {
            let problem = format!("is longer than {}", self.name("retry_cap"));
            self.problem("retry_base", &problem);
        }
        Some(RetryPolicy {
            attempts_max,
            base,
            cap,
        })
    }

    fn ordering_of_users(&mut self) -> Option<Ordering> {
        let (is_by_user, on_failure) = (self.ordering(), self.ordering_on_failure()?);
        let on_hold = self.ordering_on_hold()?;
        is_by_user.map(|is_by_user| {
            if is_by_user {
                Ordering::User { on_failure, on_hold }
            } else {
                Ordering::None
            }
        })
    }

    fn log(&mut self) -> Option<LogConfig> {
        let (filter, format, dir) = (self.log_filter(), self.log_format(), self.log_dir());
        Some(LogConfig {
            filter: filter?,
            format: format?,
            dir: dir?,
        })
    }

    /// Requires a key or `--open` if other machines can reach the port.
    fn check_access(&mut self, listen: &[SocketAddr], open: bool) {
        let has_key = self.layers.get("api_key").is_some();
        let reachable = listen.iter().find(|address| !is_this_machine(address.ip()));
        match reachable {
            Some(address) if !has_key && open => self.warnings.push(format!(
                "{address} can be reached from other machines and asks for no key: \
                  anyone there can read and change all orders"
            )),
            Some(address) if !has_key => self.problem(
                "host",
                &format!(
                    "{address} can be reached from other machines: set ORDERLY_API_KEY, \
                      or start with --open to serve anyone there"
                ),
            ),
            Some(_) | None => {}
        }
    }

    /// Warns on loopback too: there may be a proxy in front, or other users on the machine.
    fn warn_of_short_key(&mut self) {
        let key = self.layers.get("api_key");
        if key.is_some_and(|key| key.text.len() < API_KEY_CHARS_ADVISED) {
            self.warnings.push(format!(
                "the API key is short: use {API_KEY_CHARS_ADVISED} random characters or more"
            ));
        }
    }

    fn redis(&mut self, database: Option<&Database>) -> Option<RedisServer> {
        let (server, prefix) = (self.redis_url(), self.redis_prefix());
        if let (Some(_), Some(Database::Sqlite(_))) = (&server, database) {
            let problem = "is for several nodes on PostgreSQL: one node on SQLite needs none, remove it";
            self.problem("redis_url", problem);
        }
        Some(RedisServer {
            prefix: prefix?,
            ..server?
        })
    }

    fn warn_of_no_meaning(&mut self, key: &'static str) {
        let warning = format!("{} is set, but has no effect with SQLite", self.name(key));
        self.warnings.push(warning);
    }

    /// Warns of a direct URL that seems wrong: otherwise migrations and wake-ups would silently go elsewhere.
    fn warn_of_wrong_direct_url(&mut self, url: &PostgresUrl, direct: &PostgresUrl) {
        let mut doubts = Vec::new();
        if direct.looks_pooled() {
            doubts.push("leads to a pooler, by its name or port: it must bypass the pooler".to_owned());
        }
        if direct.server.get_dbname() != url.server.get_dbname() {
            doubts.push(format!(
                "names another database than {}: both must name the same one",
                self.name("database_url")
            ));
        }
        self.warn_of("database_direct_url", &doubts);
    }

    fn warn_of(&mut self, key: &'static str, warnings: &[String]) {
        let name = self.name(key);
        let named = warnings.iter().map(|warning| format!("{name}: {warning}"));
        self.warnings.extend(named);
    }

    /// Reads a setting; `None` if it is not set or cannot be read.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.layers.get(key)?;
        match parse(&value.text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problem(key, &problem);
                None
            }
        }
    }

    fn problem(&mut self, key: &'static str, problem: &str) {
        self.problems.push(format!("{}: {problem}", self.name(key)));
    }

    /// Returns the name under which the operator gave the setting, with its origin.
    fn name(&self, key: &'static str) -> String {
        let setting =
            Setting::by_key(key).expect("the keys in this file are in the table, which tests check");
        let value = self.layers.get(key);
        value
            .map_or(&Origin::Default, |value| &value.origin)
            .name_of(setting)
    }
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let addresses: BTreeSet<SocketAddr> = (without_brackets(host), port)
        .to_socket_addrs()
        .map_err(|error| format!("`{host}` has no address: {error}"))?
        .collect();
    if addresses.is_empty() {
        return Err(format!("`{host}` has no address"));
    }
    Ok(addresses.into_iter().collect())
}
