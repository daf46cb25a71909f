//! A PostgreSQL URL as hosts hand it out, with libpq's meaning of its parameters
//! (<https://www.postgresql.org/docs/current/libpq-connect.html>). Taking the text apart is left to
//! `postgres_url/parts.rs`, connecting to `store/postgres`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{
    ChannelBinding, Host, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs,
};

use super::values;
use parts::Parts;

mod parts;
#[cfg(test)]
mod tests;

const DEFAULT_PORT: u16 = 5432;
/// Ports that poolers listen on: `PgBouncer`'s own, and the one of hosted transaction poolers.
const POOLER_PORTS: [u16; 2] = [6432, 6543];
/// In the first label of the names of Neon's poolers.
const POOLER_NAME: &str = "-pooler";

/// How the sessions call themselves in `pg_stat_activity`.
const APPLICATION_NAME: &str = "orderly";
/// For one address to answer: many times what a distant or a waking server takes.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// For the other side to confirm what was sent to it. Shorter than the usual lease: whoever loses the way to the
/// database has time to renew its leases over another one.
const UNCONFIRMED_TIME: Duration = Duration::from_secs(15);
/// Of silence until the other side is asked whether it lives: below the minutes after which firewalls and NAT
/// gateways drop a silent connection without a word.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
/// Between further such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered questions that make a connection a dead one.
const KEEPALIVE_RETRIES: u32 = 3;

/// A name longer than this is no parameter of anybody's.
const PARAMETER_NAME_CHARS_MAX: usize = 40;

/// Which server, which database, and how sure one must be to talk to the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresUrl {
    /// Host, port, user, password, database and what else the driver takes itself. Its debug form hides the password.
    pub server: tokio_postgres::Config,
    pub tls: TlsMode,
    pub roots: Roots,
    /// `postgres://host:port/database`: for people, without user or secrets.
    pub location: String,
    /// Where a password is looked for that the URL does not hold, when it names a file for that.
    pub password_file: Option<PathBuf>,
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

impl PostgresUrl {
    /// The URL, and a warning for each parameter that is ignored. Neither errors nor warnings show a secret.
    pub fn parse(text: &str) -> Result<(PostgresUrl, Vec<String>), String> {
        let mut parts = Parts::of(text)?;
        let parameters = std::mem::take(&mut parts.parameters);
        let mut reader = Reader::new(parts);
        for (name, value) in parameters {
            // As in libpq, an empty value is no value.
            if !value.is_empty() {
                reader.take(&name, value)?;
            }
        }
        reader.finish()
    }

    /// Whether a pooler answers at this address, as far as its name or port tell.
    pub fn looks_pooled(&self) -> bool {
        let by_name = self.server.get_hosts().iter().any(|host| match host {
            Host::Tcp(name) => name.contains(POOLER_NAME),
            Host::Unix(_) => false,
        });
        by_name
            || self
                .server
                .get_ports()
                .iter()
                .any(|port| POOLER_PORTS.contains(port))
    }
}

/// Collects what the URL says. A later parameter overrides an earlier one and the part before the `?`.
struct Reader {
    server: tokio_postgres::Config,
    hosts: Vec<String>,
    ports: Vec<String>,
    addresses: Vec<IpAddr>,
    database: String,
    mode: Option<TlsMode>,
    roots: Option<GivenRoots>,
    connect_time: Option<Duration>,
    unconfirmed_time: Option<Duration>,
    password_file: Option<PathBuf>,
    ignored: BTreeSet<String>,
}

enum GivenRoots {
    /// `sslrootcert=system`
    System,
    File(PathBuf),
}

impl Reader {
    fn new(parts: Parts) -> Reader {
        let mut server = tokio_postgres::Config::new();
        server
            .application_name(APPLICATION_NAME)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        if !parts.user.is_empty() {
            server.user(parts.user);
        }
        if !parts.password.is_empty() {
            server.password(parts.password);
        }
        Reader {
            server,
            hosts: parts.hosts,
            ports: parts.ports,
            addresses: Vec::new(),
            database: parts.database,
            mode: None,
            roots: None,
            connect_time: Some(CONNECT_TIME),
            unconfirmed_time: Some(UNCONFIRMED_TIME),
            password_file: None,
            ignored: BTreeSet::new(),
        }
    }

    fn take(&mut self, name: &str, value: Vec<u8>) -> Result<(), String> {
        if name == "password" {
            self.server.password(value);
            return Ok(());
        }
        let value = String::from_utf8(value).map_err(|_| "a parameter is not UTF-8".to_owned())?;
        let list = || value.split(',').map(str::to_owned).collect();
        match name {
            "user" => drop(self.server.user(value)),
            "dbname" => self.database = value,
            "host" => self.hosts = list(),
            "port" => self.ports = list(),
            "hostaddr" => self.addresses = addresses(&value)?,
            "options" => drop(self.server.options(value)),
            "application_name" => drop(self.server.application_name(value)),
            "sslmode" => self.mode = Some(one_of(name, &value, &TLS_MODES)?),
            // How JDBC says it; libpq takes it for that.
            "ssl" if value == "true" => self.mode = Some(TlsMode::Require),
            "sslrootcert" if value == "system" => self.roots = Some(GivenRoots::System),
            "sslrootcert" => self.roots = Some(GivenRoots::File(path(name, &value)?)),
            "passfile" => self.password_file = Some(path(name, &value)?),
            "sslnegotiation" => drop(self.server.ssl_negotiation(one_of(name, &value, &NEGOTIATIONS)?)),
            "channel_binding" => drop(self.server.channel_binding(one_of(name, &value, &BINDINGS)?)),
            "target_session_attrs" => {
                self.server.target_session_attrs(one_of(name, &value, &SESSIONS)?);
            }
            "load_balance_hosts" => {
                self.server.load_balance_hosts(one_of(name, &value, &BALANCES)?);
            }
            "connect_timeout" => self.connect_time = positive(name, &value)?.map(Duration::from_secs),
            // The only one in milliseconds.
            "tcp_user_timeout" => self.unconfirmed_time = positive(name, &value)?.map(Duration::from_millis),
            "keepalives" => drop(self.server.keepalives(positive(name, &value)?.is_some())),
            "keepalives_idle" => {
                if let Some(seconds) = positive(name, &value)? {
                    self.server.keepalives_idle(Duration::from_secs(seconds));
                }
            }
            "keepalives_interval" => {
                if let Some(seconds) = positive(name, &value)? {
                    self.server.keepalives_interval(Duration::from_secs(seconds));
                }
            }
            "keepalives_count" => {
                if let Some(count) = positive(name, &value)? {
                    let count = u32::try_from(count).map_err(|_| format!("{name} is too large"))?;
                    self.server.keepalives_retries(count);
                }
            }
            unknown => drop(self.ignored.insert(ignored(unknown))),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(PostgresUrl, Vec<String>), String> {
        let (tls, roots) = self.tls()?;
        let location = self.place()?;
        if let Some(limit) = self.connect_time {
            self.server.connect_timeout(limit);
        }
        if let Some(limit) = self.unconfirmed_time {
            self.server.tcp_user_timeout(limit);
        }
        self.server.ssl_mode(match tls {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        let url = PostgresUrl {
            server: self.server,
            tls,
            roots,
            location,
            password_file: self.password_file,
        };
        Ok((url, self.ignored.into_iter().collect()))
    }

    fn tls(&mut self) -> Result<(TlsMode, Roots), String> {
        let only_sockets = !self.hosts.is_empty() && self.hosts.iter().all(|host| is_socket(host));
        let (mode, roots) = match (self.mode, self.roots.take()) {
            (_, _) if only_sockets => (TlsMode::Disable, Roots::System),
            (None | Some(TlsMode::VerifyFull), Some(GivenRoots::System)) => {
                (TlsMode::VerifyFull, Roots::System)
            }
            (Some(_), Some(GivenRoots::System)) => {
                return Err("sslrootcert=system needs sslmode=verify-full".to_owned());
            }
            (Some(TlsMode::Require), Some(GivenRoots::File(path))) => (TlsMode::VerifyCa, Roots::File(path)),
            (mode, Some(GivenRoots::File(path))) => (mode.unwrap_or(TlsMode::Prefer), Roots::File(path)),
            (mode, None) => (mode.unwrap_or(TlsMode::Prefer), Roots::System),
        };
        let is_weak = matches!(mode, TlsMode::Disable | TlsMode::Prefer);
        if is_weak && self.server.get_ssl_negotiation() == SslNegotiation::Direct {
            return Err("sslnegotiation=direct needs sslmode=require or better".to_owned());
        }
        Ok((mode, roots))
    }

    /// Sets where the server is, and answers how that is told to people.
    fn place(&mut self) -> Result<String, String> {
        if self.hosts.iter().all(String::is_empty) {
            // Named by their addresses, they have a name for their certificates.
            self.hosts = self.addresses.iter().map(IpAddr::to_string).collect();
        }
        if self.hosts.is_empty() {
            return Err("names no host: write postgres://HOST/DATABASE, \
                        or host=/var/run/postgresql for a socket"
                .to_owned());
        }
        if self.hosts.iter().any(String::is_empty) {
            return Err("one of the hosts is empty".to_owned());
        }
        let hosts = self.hosts.len();
        if !self.addresses.is_empty() && self.addresses.len() != hosts {
            return Err("hostaddr must have as many addresses as there are hosts".to_owned());
        }
        let ports = self.ports()?;
        if ![1, hosts].contains(&ports.len()) {
            return Err("there must be one port, or as many as there are hosts".to_owned());
        }
        let mut told = Vec::with_capacity(hosts);
        for (host, port) in self.hosts.iter().zip(ports.iter().cycle()) {
            if is_socket(host) {
                self.server.host_path(host);
                told.push(format!("{}:{port}", host.replace('/', "%2F")));
            } else {
                self.server.host(host);
                let is_ipv6 = host.contains(':');
                told.push(if is_ipv6 {
                    format!("[{host}]:{port}")
                } else {
                    format!("{host}:{port}")
                });
            }
            self.server.port(*port);
        }
        for address in &self.addresses {
            self.server.hostaddr(*address);
        }
        let mut location = format!("postgres://{}", told.join(","));
        if !self.database.is_empty() {
            self.server.dbname(&self.database);
            location = format!("{location}/{}", self.database);
        }
        Ok(location)
    }

    /// At least one.
    fn ports(&self) -> Result<Vec<u16>, String> {
        if self.ports.is_empty() {
            return Ok(vec![DEFAULT_PORT]);
        }
        let port = |text: &String| match text.parse() {
            _ if text.is_empty() => Ok(DEFAULT_PORT),
            Ok(0) | Err(_) => Err("the port is not a number from 1 to 65535".to_owned()),
            Ok(port) => Ok(port),
        };
        self.ports.iter().map(port).collect()
    }
}

const TLS_MODES: [(&str, TlsMode); 5] = [
    ("disable", TlsMode::Disable),
    ("prefer", TlsMode::Prefer),
    ("require", TlsMode::Require),
    ("verify-ca", TlsMode::VerifyCa),
    ("verify-full", TlsMode::VerifyFull),
];
const NEGOTIATIONS: [(&str, SslNegotiation); 2] = [
    ("postgres", SslNegotiation::Postgres),
    ("direct", SslNegotiation::Direct),
];
const BINDINGS: [(&str, ChannelBinding); 3] = [
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];
/// Those of servers that take orders.
const SESSIONS: [(&str, TargetSessionAttrs); 3] = [
    ("any", TargetSessionAttrs::Any),
    ("read-write", TargetSessionAttrs::ReadWrite),
    ("primary", TargetSessionAttrs::ReadWrite),
];
const BALANCES: [(&str, LoadBalanceHosts); 2] = [
    ("disable", LoadBalanceHosts::Disable),
    ("random", LoadBalanceHosts::Random),
];

fn one_of<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let chosen = choices.iter().find(|(choice, _)| *choice == value);
    chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
        format!("{name} must be one of {}", names.join(", "))
    })
}

/// `None` for zero and less, which mean "none" or "the system's default" to libpq.
fn positive(name: &str, value: &str) -> Result<Option<u64>, String> {
    let number: i32 = value
        .trim()
        .parse()
        .map_err(|_| format!("{name} must be a whole number"))?;
    Ok(u64::try_from(number).ok().filter(|number| *number > 0))
}

fn addresses(value: &str) -> Result<Vec<IpAddr>, String> {
    value
        .split(',')
        .map(|address| {
            address
                .parse()
                .map_err(|_| "hostaddr must be an IP address".to_owned())
        })
        .collect()
}

fn path(name: &str, value: &str) -> Result<PathBuf, String> {
    values::path(value).map_err(|problem| format!("{name}: {problem}"))
}

fn is_socket(host: &str) -> bool {
    host.starts_with('/')
}

fn ignored(name: &str) -> String {
    let is_name = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    // Part of a value with an `&` in it, perhaps, and that value a secret.
    if name.is_empty() || name.len() > PARAMETER_NAME_CHARS_MAX || !is_name {
        return "a parameter that is no name of one is ignored".to_owned();
    }
    format!("the parameter `{name}` is not known and is ignored")
}
