//! PostgreSQL connection URL as hosting providers issue it, with libpq's meaning of its parameters
//! (<https://www.postgresql.org/docs/current/libpq-connect.html>). `postgres_url/parts.rs` splits the text;
//! `store/postgres` connects.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{Host, TargetSessionAttrs};

use super::Secret;
use super::service_file::ServiceFiles;

mod keywords;
mod parameters;
mod parts;
mod reader;
#[cfg(test)]
mod tests;

/// Ports that poolers listen on: `PgBouncer`'s default and that of hosted transaction poolers.
const POOLER_PORTS: [u16; 2] = [6432, 6543];
/// Part of the first label in the host names of Neon's poolers.
const POOLER_NAME: &str = "-pooler";

/// Servers, database, and how to verify the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresUrl {
    /// User, password, database and other settings of the driver, without a host. Its debug form hides the password.
    pub server: tokio_postgres::Config,
    /// Hosts in the URL's order; at least one.
    pub hosts: Vec<OneHost>,
    /// `target_session_attrs`, if given.
    pub session: Option<Session>,
    /// `load_balance_hosts=random`
    pub in_random_order: bool,
    /// Maximum time to connect to one address: name, TCP, TLS, log-in, and the check of the server. `None` for no limit.
    pub connect_time_max: Option<Duration>,
    pub tls: TlsMode,
    pub roots: Roots,
    /// Certificate for a server that asks for one.
    pub identity: Option<Identity>,
    pub tls_versions: TlsVersions,
    /// Set to send the host name in the TLS handshake (`sslsni`).
    pub sends_name: bool,
    /// `postgres://host:port/database`, for people, without user or secrets.
    pub location: String,
    /// Password file named by the URL.
    pub password_file: Option<PathBuf>,
}

/// A host of the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneHost {
    pub name: Host,
    /// `hostaddr`, the address to connect to instead of resolving the name.
    pub address: Option<IpAddr>,
    pub port: u16,
    /// Password from the password file if the URL holds none.
    pub password: Option<Secret>,
}

/// Servers that a connection may lead to (`target_session_attrs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    Any,
    /// Accepts writes.
    ReadWrite,
    /// Accepts no writes.
    ReadOnly,
    /// Not a standby.
    Primary,
    Standby,
    /// A standby, or any server if no standby answers.
    PreferStandby,
}

/// Effective `sslmode` with libpq's exceptions: `require` with a root file is `VerifyCa`, and a Unix socket is always
/// `Disable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    /// Encrypts if the server supports it; checks no certificate.
    Prefer,
    /// Always encrypts; accepts any certificate.
    Require,
    /// Requires a certificate of a known authority.
    VerifyCa,
    /// Requires also that the certificate matches the host.
    VerifyFull,
}

/// Trusted certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those of the machine, or the public ones if it has none.
    System,
    /// Those of a PEM file.
    File(PathBuf),
}

/// PEM files of a client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Accepted TLS versions (`ssl_min_protocol_version` and `ssl_max_protocol_version`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersions {
    From12,
    Only12,
    Only13,
}

impl Session {
    /// Reports whether servers of this kind can store orders.
    pub fn may_store(self) -> bool {
        match self {
            Session::Any | Session::ReadWrite | Session::Primary => true,
            Session::ReadOnly | Session::Standby | Session::PreferStandby => false,
        }
    }
}

impl PostgresUrl {
    /// Parses a URL and returns a warning per ignored parameter. Neither errors nor warnings show a secret.
    pub fn parse(text: &str) -> Result<(PostgresUrl, Vec<String>), String> {
        PostgresUrl::parse_with(text, &ServiceFiles::default())
    }

    /// Reports whether a text has libpq's other form, `host=HOST dbname=DATABASE`.
    pub fn is_in_keywords(text: &str) -> bool {
        keywords::are_meant(text)
    }

    /// Parses a URL or libpq's other form, which may name a service.
    pub fn parse_with(text: &str, services: &ServiceFiles) -> Result<(PostgresUrl, Vec<String>), String> {
        let mut given = if keywords::are_meant(text) {
            keywords::of(text)?
        } else {
            parts::of(text)?
        };
        // As in libpq, an empty value is no value.
        given.retain(|(_, value)| !value.is_empty());
        add_service(&mut given, services)?;
        reader::read(given)
    }

    /// Reports whether a pooler seems to answer at this address, judging by name or port.
    pub fn looks_pooled(&self) -> bool {
        self.hosts.iter().any(|host| {
            let by_name = match &host.name {
                Host::Tcp(name) => name.contains(POOLER_NAME),
                Host::Unix(_) => false,
            };
            by_name || POOLER_PORTS.contains(&host.port)
        })
    }

    /// Returns a configuration for the driver's own loop over the hosts; of several hosts it uses the first that takes
    /// writes.
    pub fn config(&self) -> tokio_postgres::Config {
        let mut config = self.server.clone();
        if self.hosts.len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        for host in &self.hosts {
            host.add_to(&mut config);
        }
        config
    }
}

/// Adds the parameters of the named service that the text itself lacks.
fn add_service(given: &mut Vec<(String, Vec<u8>)>, services: &ServiceFiles) -> Result<(), String> {
    const SERVICE: &str = "service";
    let named = given.iter().rfind(|(name, _)| name == SERVICE);
    let Some((_, service)) = named else {
        return Ok(());
    };
    let service =
        String::from_utf8(service.clone()).map_err(|_| "the service's name is not UTF-8".to_owned())?;
    let mut described = services.parameters(&service)?;
    if described.iter().any(|(name, _)| name == SERVICE) {
        return Err("a service cannot name another service".to_owned());
    }
    described.retain(|(name, value)| !value.is_empty() && given.iter().all(|(known, _)| known != name));
    given.retain(|(name, _)| name != SERVICE);
    given.extend(described);
    Ok(())
}

impl OneHost {
    pub fn add_to(&self, config: &mut tokio_postgres::Config) {
        match &self.name {
            Host::Tcp(name) => config.host(name),
            Host::Unix(folder) => config.host_path(folder),
        };
        config.port(self.port);
        if let Some(address) = self.address {
            config.hostaddr(address);
        }
        if let Some(password) = &self.password {
            config.password(password.expose());
        }
    }
}

/// `NAME:PORT` as in a URL.
impl fmt::Display for OneHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.name {
            Host::Unix(folder) => write!(
                formatter,
                "{}:{port}",
                folder.display().to_string().replace('/', "%2F")
            ),
            Host::Tcp(name) if name.contains(':') => write!(formatter, "[{name}]:{port}"),
            Host::Tcp(name) => write!(formatter, "{name}:{port}"),
        }
    }
}
