//! Table of settings: their names, who may see and give them, and how each value is read. Defaults and documentation are
//! in `orderly.default.toml`; `read.rs` puts the values together.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::read::{ProcessorName, Reader};
use super::redis_server::{self, RedisServer};
use super::values::{self, choice, switch};
use super::{LogFormat, Secret, ServiceUrl, SigningKey};
use crate::money::Currency;
use crate::order::{OnFailure, OnHold};

/// Defaults, with a comment on every setting.
pub const DEFAULT_FILE: &str = include_str!("../../orderly.default.toml");

/// Variable that names a file to read instead of `orderly.toml`.
pub const CONFIG_VARIABLE: &str = "ORDERLY_CONFIG";

/// Prefix of our variables; an unknown variable with it gets a warning.
pub const VARIABLE_PREFIX: &str = "ORDERLY_";

#[derive(Debug)]
pub struct Setting {
    /// Key in `orderly.toml`.
    pub key: &'static str,
    /// Environment variable.
    pub variable: &'static str,
    pub secrecy: Secrecy,
    pub audience: Audience,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    Public,
    /// A URL that may carry a password: shown without it, may come from a file.
    Url,
    /// A URL that may carry a secret anywhere: only scheme, host and port are shown; may come from a file.
    Address,
    /// Never shown, may come from a file, has no flag: other users can see command lines.
    Secret,
}

/// Commands that take the setting as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Server,
    /// The server, and commands that open the store themselves.
    Store,
    /// Commands that talk to a server.
    Client,
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// More than any disk holds, and below the integer limits of every store.
const PENDING_MAX: u64 = 1_000_000_000_000;
/// Range of the retention: at least as long as an idempotency key is kept, so that a repeated request finds its order; at
/// most a hundred years, which equal `keep`.
pub(super) const RETENTION: RangeInclusive<Duration> = DAY..=Duration::from_hours(100 * 8_766);
/// From one attempt per 17 minutes.
const RATE: RangeInclusive<f64> = 0.001..=1e6;
/// A thousand years in 30 s; beyond that use 0.
const SPEED_MAX: f64 = 1e9;
/// Shorter than any round trip to another machine; a smaller value is a mistake in the unit.
const TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// Declares the settings, one row each: the key, the variable, the secrecy, the audience, and the value with its reader.
/// `read.rs` reads those without one, which take more than their text.
macro_rules! settings {
    ($($key:ident: $variable:literal, $secrecy:ident, $audience:ident $(=> $value:ty = $read:expr)?;)+) => {
        /// All settings, in the order of `orderly.default.toml`.
        pub const SETTINGS: &[Setting] = &[$(
            Setting {
                key: stringify!($key),
                variable: $variable,
                secrecy: Secrecy::$secrecy,
                audience: Audience::$audience,
            },
        )+];

        /// Values of single settings; `None` for one that is not set or cannot be read.
        impl Reader<'_> {
            $($(
                pub(super) fn $key(&mut self) -> Option<$value> {
                    self.read(stringify!($key), $read)
                }
            )?)+
        }
    };
}

settings! {
    host: "HOST", Public, Server;
    port: "PORT", Public, Server => u16 = number(0..=u16::MAX);
    node_name: "ORDERLY_NODE_NAME", Public, Server => String = values::node_name;
    database_url: "DATABASE_URL", Url, Store;
    database_direct_url: "DATABASE_DIRECT_URL", Url, Store;
    database_read_url: "DATABASE_READ_URL", Url, Store;
    redis_url: "REDIS_URL", Address, Server => RedisServer = RedisServer::parse;
    redis_prefix: "ORDERLY_REDIS_PREFIX", Public, Server => String = redis_server::prefix;
    idle_sleep: "ORDERLY_IDLE_SLEEP", Public, Server => bool = switch;
    migrate: "ORDERLY_MIGRATE", Public, Server => bool = switch;
    concurrency: "ORDERLY_CONCURRENCY", Public, Server => u32 = number(1..=10_000);
    max_connections: "ORDERLY_MAX_CONNECTIONS", Public, Server => usize = number(1..=65_536);
    max_attempts: "ORDERLY_MAX_ATTEMPTS", Public, Server => u32 = number(1..=1_000);
    retry_base: "ORDERLY_RETRY_BASE", Public, Server => Duration = duration(Duration::ZERO..=DAY);
    retry_cap: "ORDERLY_RETRY_CAP", Public, Server => Duration = duration(Duration::ZERO..=DAY);
    max_crashes: "ORDERLY_MAX_CRASHES", Public, Server => u32 = number(1..=1_000);
    lease: "ORDERLY_LEASE", Public, Server => Duration = duration(SECOND..=HOUR);
    attempt_timeout: "ORDERLY_ATTEMPT_TIMEOUT", Public, Server => Duration = duration(SECOND..=DAY);
    processor: "ORDERLY_PROCESSOR", Public, Server => ProcessorName = |text| choice(text, &[
        ("simulated", ProcessorName::Simulated),
        ("http", ProcessorName::Http),
        ("pull", ProcessorName::Pull),
    ]);
    processor_url: "ORDERLY_PROCESSOR_URL", Address, Server => ServiceUrl = ServiceUrl::parse;
    processor_secret: "ORDERLY_PROCESSOR_SECRET", Secret, Server => Vec<SigningKey> = SigningKey::parse_all;
    processor_connect_timeout: "ORDERLY_PROCESSOR_CONNECT_TIMEOUT", Public, Server
        => Duration = duration(TIMEOUT_MIN..=HOUR);
    processor_response_timeout: "ORDERLY_PROCESSOR_RESPONSE_TIMEOUT", Public, Server
        => Duration = duration(TIMEOUT_MIN..=DAY);
    simulated_speed: "ORDERLY_SIMULATED_SPEED", Public, Server => f64 = number(0.0..=SPEED_MAX);
    simulated_failure_rate: "ORDERLY_SIMULATED_FAILURE_RATE", Public, Server => f64 = number(0.0..=1.0);
    rate_limit: "ORDERLY_RATE_LIMIT", Public, Server => f64 = number(RATE);
    ordering: "ORDERLY_ORDERING", Public, Server => bool = |text| choice(text, &[("none", false), ("user", true)]);
    ordering_on_failure: "ORDERLY_ORDERING_ON_FAILURE", Public, Server => OnFailure = |text| choice(text, &[
        ("skip", OnFailure::Skip),
        ("block", OnFailure::Block),
    ]);
    ordering_on_hold: "ORDERLY_ORDERING_ON_HOLD", Public, Server => OnHold = |text| choice(text, &[
        ("block", OnHold::Block),
        ("skip", OnHold::Skip),
    ]);
    currency: "ORDERLY_CURRENCY", Public, Server => Currency = |text| Currency::parse(text).map_err(|error| error.to_string());
    shutdown_grace: "ORDERLY_SHUTDOWN_GRACE", Public, Server => Duration = duration(Duration::ZERO..=HOUR);
    max_pending: "ORDERLY_MAX_PENDING", Public, Server => u64 = number(1..=PENDING_MAX);
    retention: "ORDERLY_RETENTION", Public, Server;
    api_key: "ORDERLY_API_KEY", Secret, Server => Secret = values::api_key;
    open: "ORDERLY_OPEN", Public, Server => bool = switch;
    log_filter: "RUST_LOG", Public, Server => String = values::log_filter;
    log_format: "ORDERLY_LOG_FORMAT", Public, Server => LogFormat = |text| choice(text, &[
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
    ]);
    log_dir: "ORDERLY_LOG_DIR", Public, Server => PathBuf = values::path;
    url: "ORDERLY_URL", Url, Client => String = values::server_url;
}

fn number<T>(range: RangeInclusive<T>) -> impl FnOnce(&str) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    move |text| values::number(text, &range)
}

fn duration(range: RangeInclusive<Duration>) -> impl FnOnce(&str) -> Result<Duration, String> {
    move |text| values::duration(text, &range)
}

impl Setting {
    pub fn by_key(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Returns the long flag without its dashes; secrets have none.
    pub fn flag(&self) -> Option<String> {
        match self.secrecy {
            Secrecy::Public | Secrecy::Url | Secrecy::Address => Some(self.key.replace('_', "-")),
            Secrecy::Secret => None,
        }
    }

    /// Returns the variable that names a file with the value; only settings that may be secret have one.
    pub fn file_variable(&self) -> Option<String> {
        match self.secrecy {
            Secrecy::Public => None,
            Secrecy::Url | Secrecy::Address | Secrecy::Secret => Some(format!("{}_FILE", self.variable)),
        }
    }

    /// Returns the comment above the setting in the default file, as one line.
    pub fn documentation(&self) -> String {
        let mut comment: Vec<&str> = Vec::new();
        for line in DEFAULT_FILE.lines() {
            if let Some(text) = line.strip_prefix('#') {
                comment.push(text.trim());
            } else if line.split('=').next().is_some_and(|key| key.trim() == self.key) {
                break;
            } else {
                comment.clear();
            }
        }
        comment.join(" ")
    }
}

/// The setting that opens the server to the network; no suggestion for a typo names it.
pub const OPENS_THE_SERVER: &str = "open";

/// The variable that an unknown one probably stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct Meant {
    pub variable: String,
    /// True if it names the store: ignoring it would use another store.
    pub names_the_store: bool,
}

/// Returns the setting that an unknown variable probably stands for: one with that name without the prefix, or with that
/// key, or else the most similar name.
pub fn meant_by(unknown: &str) -> Option<Meant> {
    let bare = without_prefix(unknown);
    let by_name = variables().find(|known| known == bare);
    let by_key = || {
        let mut settings = SETTINGS.iter();
        settings
            .find(|setting| setting.key.eq_ignore_ascii_case(bare))
            .map(|setting| setting.variable.to_owned())
    };
    let similar = || {
        let known = variables().map(|known| without_prefix(&known).to_owned());
        let similar = suggestion(bare, known)?;
        variables().find(|known| without_prefix(known) == similar)
    };
    let variable = by_name.or_else(by_key).or_else(similar)?;
    let store = Setting::by_key("database_url")?;
    let names_the_store = variable == store.variable || Some(&variable) == store.file_variable().as_ref();
    let opens = Setting::by_key(OPENS_THE_SERVER)?.variable == variable;
    (!opens).then_some(Meant {
        variable,
        names_the_store,
    })
}

fn without_prefix(name: &str) -> &str {
    name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name)
}

/// Returns the known name most similar to an unknown one; never the one that opens the server.
pub fn suggestion(unknown: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    /// Jaro-Winkler similarity below which two names share little more than a word.
    const SIMILARITY_MIN: f64 = 0.85;
    known
        .into_iter()
        .filter(|name| !name.eq_ignore_ascii_case(OPENS_THE_SERVER))
        .map(|name| (strsim::jaro_winkler(unknown, &name), name))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| name)
}

/// Returns all known variables, including those that name files.
pub fn variables() -> impl Iterator<Item = String> {
    SETTINGS
        .iter()
        .flat_map(|setting| [Some(setting.variable.to_owned()), setting.file_variable()])
        .flatten()
        .chain([CONFIG_VARIABLE.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_default_file_have_the_same_settings() {
        let file: toml::Table = DEFAULT_FILE.parse().unwrap();
        let mut in_file: Vec<&str> = file.keys().map(String::as_str).collect();
        let mut in_table: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        in_file.sort_unstable();
        in_table.sort_unstable();
        assert_eq!(in_file, in_table);
    }

    #[test]
    fn every_setting_is_documented() {
        for setting in SETTINGS {
            assert!(setting.documentation().ends_with('.'), "{}", setting.key);
        }
        assert_eq!(
            Setting::by_key("max_attempts").unwrap().documentation(),
            "Attempts before an order is Failed, 1 to 1000."
        );
    }

    #[test]
    fn a_misspelt_name_is_recognised() {
        let meant = |name: &str| meant_by(name).map(|meant| (meant.variable, meant.names_the_store));
        for (name, variable, names_the_store) in [
            ("ORDERLY_CONCURENCY", "ORDERLY_CONCURRENCY", false),
            ("ORDERLY_HOST", "HOST", false),
            ("ORDERLY_HSOT", "HOST", false),
            ("ORDERLY_PORT", "PORT", false),
            ("ORDERLY_REDIS_URL", "REDIS_URL", false),
            ("ORDERLY_RUST_LOG", "RUST_LOG", false),
            ("ORDERLY_LOG_FILTER", "RUST_LOG", false),
            ("ORDERLY_DATABASE_DIRECT_URL", "DATABASE_DIRECT_URL", false),
            ("ORDERLY_DATABASE_URL", "DATABASE_URL", true),
            ("ORDERLY_DATABASE_URL_FILE", "DATABASE_URL_FILE", true),
            ("ORDERLY_DATABASE_URI", "DATABASE_URL", true),
            ("ORDERLY_DATABASE", "DATABASE_URL", true),
        ] {
            assert_eq!(
                meant(name),
                Some((variable.to_owned(), names_the_store)),
                "{name}"
            );
        }
        assert_eq!(meant("ORDERLY_COLOUR_OF_THE_SKY"), None);
        let keys = || SETTINGS.iter().map(|setting| setting.key.to_owned());
        assert_eq!(suggestion("prot", keys()).as_deref(), Some("port"));
        assert_eq!(suggestion("colour", keys()), None);
        for name in ["opn", "opne", "opens"] {
            assert_ne!(suggestion(name, keys()).as_deref(), Some("open"), "{name}");
            let variable = format!("ORDERLY_{}", name.to_uppercase());
            assert_ne!(
                meant(&variable).map(|(name, _)| name).as_deref(),
                Some("ORDERLY_OPEN")
            );
        }
    }
}
