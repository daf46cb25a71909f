//! A PostgreSQL URL as hosts hand it out, with libpq's meaning of its parameters
//! (<https://www.postgresql.org/docs/current/libpq-connect.html>). Taking the text apart is left to
//! `postgres_url/parts.rs`, connecting to `store/postgres`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{Host, TargetSessionAttrs};

use super::Secret;
use super::service_file::ServiceFiles;
use parts::Parts;
use reader::Reader;

mod keywords;
mod parameters;
mod parts;
mod reader;
#[cfg(test)]
mod tests;

/// Ports that poolers listen on: `PgBouncer`'s own, and the one of hosted transaction poolers.
const POOLER_PORTS: [u16; 2] = [6432, 6543];
/// In the first label of the names of Neon's poolers.
const POOLER_NAME: &str = "-pooler";

/// Which server, which database, and how sure one must be to talk to the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresUrl {
    /// User, password, database and what else the driver takes itself, without a host. Its debug form hides the password.
    pub server: tokio_postgres::Config,
    /// In the URL's order, at least one.
    pub hosts: Vec<OneHost>,
    /// `target_session_attrs`, where the URL has it.
    pub session: Option<Session>,
    /// `load_balance_hosts=random`
    pub in_random_order: bool,
    /// Longest wait for one address: name, TCP, TLS, log-in, and the look at the server. `None` where the URL wants no limit.
    pub connect_time_max: Option<Duration>,
    pub tls: TlsMode,
    pub roots: Roots,
    /// What the client shows a server that asks for its certificate.
    pub identity: Option<Identity>,
    pub tls_versions: TlsVersions,
    /// The server is told by which name it was looked for (`sslsni`).
    pub sends_name: bool,
    /// `postgres://host:port/database`: for people, without user or secrets.
    pub location: String,
    /// Where a password is looked for that the URL does not hold, when it names a file for that.
    pub password_file: Option<PathBuf>,
}

/// A host of the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneHost {
    pub name: Host,
    /// `hostaddr`, which is connected to in place of the name's addresses.
    pub address: Option<IpAddr>,
    pub port: u16,
    /// From the password file, where the URL holds none.
    pub password: Option<Secret>,
}

/// The servers that a connection may lead to (`target_session_attrs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    Any,
    /// Takes writes.
    ReadWrite,
    /// Takes none.
    ReadOnly,
    /// Is no standby.
    Primary,
    Standby,
    /// A standby, or any where none answers.
    PreferStandby,
}

/// What `sslmode` comes to, with libpq's exceptions applied: `require` with a root file is `VerifyCa`, and through a
/// Unix socket everything is `Disable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    /// Encrypts when the server can; checks no certificate.
    Prefer,
    /// Encrypts; goes on with whatever certificate there is.
    Require,
    /// The certificate comes from a known authority.
    VerifyCa,
    /// And it is the host's.
    VerifyFull,
}

/// Whose signatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The machine's, or the public ones where the machine has none.
    System,
    /// Of a PEM file.
    File(PathBuf),
}

/// The PEM files of a client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Versions of TLS that may be spoken (`ssl_min_protocol_version` and `ssl_max_protocol_version`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersions {
    From12,
    Only12,
    Only13,
}

impl Session {
    /// Reports whether orders can be stored on the servers it leads to.
    pub fn may_store(self) -> bool {
        match self {
            Session::Any | Session::ReadWrite | Session::Primary => true,
            Session::ReadOnly | Session::Standby | Session::PreferStandby => false,
        }
    }
}

impl PostgresUrl {
    /// Reads a URL, and warns of each parameter that is ignored. Neither errors nor warnings show a secret.
    pub fn parse(text: &str) -> Result<(PostgresUrl, Vec<String>), String> {
        PostgresUrl::parse_with(text, &ServiceFiles::default())
    }

    /// Reports whether a text is meant to be libpq's other form, `host=HOST dbname=DATABASE`.
    pub fn is_in_keywords(text: &str) -> bool {
        keywords::are_meant(text)
    }

    /// Reads a URL or libpq's other form, which may name a service.
    pub fn parse_with(text: &str, services: &ServiceFiles) -> Result<(PostgresUrl, Vec<String>), String> {
        let mut given = if keywords::are_meant(text) {
            keywords::of(text)?
        } else {
            Parts::of(text)?.into_parameters()
        };
        // As in libpq, an empty value is no value.
        given.retain(|(_, value)| !value.is_empty());
        add_service(&mut given, services)?;
        let mut reader = Reader::new();
        for (name, value) in given {
            reader.take(&name, value)?;
        }
        reader.finish()
    }

    /// Whether a pooler answers at this address, as far as its name or port tell.
    pub fn looks_pooled(&self) -> bool {
        self.hosts.iter().any(|host| {
            let by_name = match &host.name {
                Host::Tcp(name) => name.contains(POOLER_NAME),
                Host::Unix(_) => false,
            };
            by_name || POOLER_PORTS.contains(&host.port)
        })
    }

    /// Makes a configuration for the driver's own loop over the hosts. Of several the first that takes writes counts.
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

/// Adds the parameters of the service that is named, where the text itself does not have them.
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

/// `NAME:PORT` as a URL has it.
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
