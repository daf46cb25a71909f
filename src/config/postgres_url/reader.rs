//! Builds a [`PostgresUrl`] from its parameters, one by one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};

use super::{Identity, OneHost, PostgresUrl, Roots, Session, TlsMode, TlsVersions, parameters};
use crate::config::values;

const DEFAULT_PORT: u16 = 5432;

/// Application name of the sessions in `pg_stat_activity`.
const APPLICATION_NAME: &str = "orderly";
/// Maximum time to connect to one address: many times what a distant or a waking server takes.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Maximum time to connect to one of several hosts.
pub(super) const CONNECT_TIME_OF_SEVERAL: Duration = Duration::from_secs(3);
/// Maximum time until sent data is acknowledged. Below the usual lease, so that a node that loses its path to the
/// database can renew its leases over another connection.
pub(super) const UNCONFIRMED_TIME: Duration = Duration::from_secs(15);
/// Idle time before keepalive probes: below the minutes after which firewalls and NAT gateways silently drop an idle
/// connection.
pub(super) const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
/// Interval between further probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered probes after which a connection is dead.
const KEEPALIVE_RETRIES: u32 = 3;

/// Collected parameters. A later one overrides an earlier one and the part before the `?`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a separate parameter with two values"
)]
pub(super) struct Reader {
    server: tokio_postgres::Config,
    hosts: Vec<String>,
    ports: Vec<String>,
    addresses: Vec<Option<IpAddr>>,
    database: String,
    mode: Option<TlsMode>,
    roots: Option<GivenRoots>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    /// Set to never send a client certificate (`sslcertmode=disable`).
    shows_none: bool,
    from_tls13: bool,
    up_to_tls12: bool,
    sends_name: bool,
    fallback_name: Option<String>,
    session: Option<Session>,
    in_random_order: bool,
    /// Zero for no limit.
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
    pub fn new() -> Reader {
        let mut server = tokio_postgres::Config::new();
        server
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        Reader {
            server,
            hosts: Vec::new(),
            ports: Vec::new(),
            addresses: Vec::new(),
            database: String::new(),
            mode: None,
            roots: None,
            certificate: None,
            key: None,
            shows_none: false,
            from_tls13: false,
            up_to_tls12: false,
            sends_name: true,
            fallback_name: None,
            session: None,
            in_random_order: false,
            connect_time: None,
            unconfirmed_time: Some(UNCONFIRMED_TIME),
            password_file: None,
            ignored: BTreeSet::new(),
        }
    }

    pub fn take(&mut self, name: &str, value: Vec<u8>) -> Result<(), String> {
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
            "fallback_application_name" => self.fallback_name = Some(value),
            "sslmode" if value == "allow" => {
                return Err(
                    "sslmode=allow is not supported: prefer encrypts if the server supports it".to_owned(),
                );
            }
            "sslmode" => self.mode = Some(one_of(name, &value, &TLS_MODES)?),
            "sslrootcert" if value == "system" => self.roots = Some(GivenRoots::System),
            "sslrootcert" => self.roots = Some(GivenRoots::File(path(name, &value)?)),
            "sslcert" => self.certificate = Some(path(name, &value)?),
            "sslkey" => self.key = Some(path(name, &value)?),
            "sslcertmode" => self.shows_none = one_of(name, &value, &CERTIFICATE_MODES)?,
            "sslsni" => self.sends_name = one_of(name, &value, &SWITCHES)?,
            "ssl_min_protocol_version" => self.from_tls13 = one_of(name, &value, &LOWEST_VERSIONS)?,
            "ssl_max_protocol_version" => self.up_to_tls12 = one_of(name, &value, &HIGHEST_VERSIONS)?,
            // Accepted without effect, as in libpq.
            "sslcompression" => drop(one_of(name, &value, &SWITCHES)?),
            "gssencmode" => one_of(name, &value, &[("disable", ()), ("prefer", ())])?,
            "client_encoding" => one_of(
                name,
                &value.to_uppercase(),
                &[("UTF8", ()), ("UTF-8", ()), ("UNICODE", ())],
            )?,
            "replication" => one_of(name, &value, &[("false", ()), ("off", ()), ("no", ()), ("0", ())])?,
            "passfile" => self.password_file = Some(path(name, &value)?),
            "sslnegotiation" => drop(self.server.ssl_negotiation(one_of(name, &value, &NEGOTIATIONS)?)),
            "channel_binding" => drop(self.server.channel_binding(one_of(name, &value, &BINDINGS)?)),
            "target_session_attrs" => self.session = Some(one_of(name, &value, &SESSIONS)?),
            "load_balance_hosts" => self.in_random_order = one_of(name, &value, &BALANCES)?,
            "connect_timeout" => {
                let seconds = positive(name, &value)?.unwrap_or_default();
                self.connect_time = Some(Duration::from_secs(seconds));
            }
            // The only parameter in milliseconds.
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
            unknown => drop(self.ignored.insert(parameters::judge_unknown(unknown)?)),
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<(PostgresUrl, Vec<String>), String> {
        let (tls, roots) = self.tls()?;
        let identity = self.identity()?;
        let tls_versions = match (self.from_tls13, self.up_to_tls12) {
            (true, true) => {
                return Err("ssl_min_protocol_version is above ssl_max_protocol_version".to_owned());
            }
            (true, false) => TlsVersions::Only13,
            (false, true) => TlsVersions::Only12,
            (false, false) => TlsVersions::From12,
        };
        if self.server.get_application_name().is_none() {
            let name = self.fallback_name.take();
            self.server
                .application_name(name.unwrap_or_else(|| APPLICATION_NAME.to_owned()));
        }
        let hosts = self.hosts()?;
        let location = self.location(&hosts);
        let usual = if hosts.len() == 1 {
            CONNECT_TIME
        } else {
            CONNECT_TIME_OF_SEVERAL
        };
        let connect_time_max = Some(self.connect_time.unwrap_or(usual)).filter(|limit| !limit.is_zero());
        if let Some(limit) = connect_time_max {
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
            hosts,
            session: self.session,
            in_random_order: self.in_random_order,
            connect_time_max,
            tls,
            roots,
            identity,
            tls_versions,
            sends_name: self.sends_name,
            location,
            password_file: self.password_file,
        };
        Ok((url, self.ignored.into_iter().collect()))
    }

    fn identity(&mut self) -> Result<Option<Identity>, String> {
        match (self.certificate.take(), self.key.take()) {
            (Some(certificate), Some(key)) => Ok((!self.shows_none).then_some(Identity { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err("sslcert needs sslkey: the file of the certificate's key".to_owned()),
            (None, Some(_)) => Err("sslkey needs sslcert: the file of the certificate".to_owned()),
        }
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

    fn hosts(&mut self) -> Result<Vec<OneHost>, String> {
        if self.hosts.iter().all(String::is_empty) {
            // Hosts given only by address get it as their name for certificates.
            let addresses = self.addresses.iter().flatten();
            self.hosts = addresses.map(IpAddr::to_string).collect();
        }
        if self.hosts.is_empty() {
            return Err("names no host: use postgres://HOST/DATABASE, \
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
        let addresses = self.addresses.iter().copied().chain(std::iter::repeat(None));
        let hosts = self.hosts.iter().zip(ports.into_iter().cycle()).zip(addresses);
        Ok(hosts
            .map(|((host, port), address)| OneHost {
                name: if is_socket(host) {
                    Host::Unix(host.into())
                } else {
                    Host::Tcp(host.clone())
                },
                address,
                port,
                password: None,
            })
            .collect())
    }

    /// Returns the servers' location for people.
    fn location(&mut self, hosts: &[OneHost]) -> String {
        let hosts: Vec<String> = hosts.iter().map(OneHost::to_string).collect();
        let hosts = hosts.join(",");
        if self.database.is_empty() {
            return format!("postgres://{hosts}");
        }
        self.server.dbname(&self.database);
        format!("postgres://{hosts}/{}", self.database)
    }

    /// Returns at least one port.
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
const SESSIONS: [(&str, Session); 6] = [
    ("any", Session::Any),
    ("read-write", Session::ReadWrite),
    ("read-only", Session::ReadOnly),
    ("primary", Session::Primary),
    ("standby", Session::Standby),
    ("prefer-standby", Session::PreferStandby),
];
const SWITCHES: [(&str, bool); 2] = [("0", false), ("1", true)];
/// True to never send a client certificate. `sslcertmode=require` cannot be checked here and is not supported.
const CERTIFICATE_MODES: [(&str, bool); 2] = [("disable", true), ("allow", false)];
/// True to refuse versions below TLS 1.3. Versions below 1.2 are never used.
const LOWEST_VERSIONS: [(&str, bool); 4] = [
    ("TLSv1", false),
    ("TLSv1.1", false),
    ("TLSv1.2", false),
    ("TLSv1.3", true),
];
/// True to refuse TLS 1.3.
const HIGHEST_VERSIONS: [(&str, bool); 2] = [("TLSv1.2", true), ("TLSv1.3", false)];
/// True to connect to the hosts in random order.
const BALANCES: [(&str, bool); 2] = [("disable", false), ("random", true)];

fn one_of<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let chosen = choices.iter().find(|(choice, _)| *choice == value);
    chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
        format!("{name} must be one of {}", names.join(", "))
    })
}

/// Returns `None` for zero and less, which to libpq mean "none" or "the system's default".
fn positive(name: &str, value: &str) -> Result<Option<u64>, String> {
    let number: i32 = value
        .trim()
        .parse()
        .map_err(|_| format!("{name} must be a whole number"))?;
    Ok(u64::try_from(number).ok().filter(|number| *number > 0))
}

/// Parses a list of addresses; `None` for a host whose name is to be resolved.
fn addresses(value: &str) -> Result<Vec<Option<IpAddr>>, String> {
    let address = |text: &str| match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(address) => Ok(Some(address)),
        Err(_) => Err("hostaddr must be an IP address".to_owned()),
    };
    value.split(',').map(address).collect()
}

fn path(name: &str, value: &str) -> Result<PathBuf, String> {
    values::path(value).map_err(|problem| format!("{name}: {problem}"))
}

fn is_socket(host: &str) -> bool {
    host.starts_with('/')
}
