//! Builds a [`PostgresUrl`] from its parameters.

use std::collections::{BTreeMap, BTreeSet};
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

/// Builds the URL; returns a warning per ignored parameter as well.
pub(super) fn read(parameters: Vec<(String, Vec<u8>)>) -> Result<(PostgresUrl, Vec<String>), String> {
    let (mut given, ignored) = Given::of(parameters)?;
    given.check_those_without_effect()?;
    let mut server = given.server()?;
    let hosts = given.hosts()?;
    let (tls, roots) = given.tls(&hosts, server.get_ssl_negotiation())?;
    server.ssl_mode(match tls {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
    });
    let usual = if hosts.len() == 1 {
        CONNECT_TIME
    } else {
        CONNECT_TIME_OF_SEVERAL
    };
    let connect_time = given.number("connect_timeout")?;
    let connect_time = connect_time.map_or(usual, |seconds| Duration::from_secs(seconds.into()));
    let connect_time_max = Some(connect_time).filter(|limit| !limit.is_zero());
    if let Some(limit) = connect_time_max {
        server.connect_timeout(limit);
    }
    let url = PostgresUrl {
        location: location(&hosts, server.get_dbname()),
        server,
        hosts,
        session: given.one_of("target_session_attrs", &SESSIONS)?,
        in_random_order: given.one_of("load_balance_hosts", &BALANCES)?.unwrap_or(false),
        connect_time_max,
        tls,
        roots,
        identity: given.identity()?,
        tls_versions: given.tls_versions()?,
        sends_name: given.one_of("sslsni", &SWITCHES)?.unwrap_or(true),
        password_file: given.path("passfile")?,
    };
    debug_assert!(given.0.is_empty(), "every parameter is read");
    Ok((url, ignored))
}

/// Parameters still to be read, by name. The last of a name counts.
struct Given(BTreeMap<String, Vec<u8>>);

impl Given {
    /// Refuses unknown parameters; returns a warning per ignored one as well.
    fn of(parameters: Vec<(String, Vec<u8>)>) -> Result<(Given, Vec<String>), String> {
        let mut given = BTreeMap::new();
        let mut ignored = BTreeSet::new();
        for (name, value) in parameters {
            if parameters::is_taken(&name) {
                given.insert(name, value);
            } else {
                ignored.insert(parameters::judge_unknown(&name)?);
            }
        }
        Ok((Given(given), ignored.into_iter().collect()))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        let text = self.0.remove(name).map(String::from_utf8).transpose();
        text.map_err(|_| "a parameter is not UTF-8".to_owned())
    }

    fn path(&mut self, name: &str) -> Result<Option<PathBuf>, String> {
        let path = self.text(name)?.map(|text| values::path(&text)).transpose();
        path.map_err(|problem| format!("{name}: {problem}"))
    }

    fn list(&mut self, name: &str) -> Result<Vec<String>, String> {
        let text = self.text(name)?;
        Ok(text.map_or_else(Vec::new, |text| text.split(',').map(str::to_owned).collect()))
    }

    fn one_of<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, String> {
        let Some(value) = self.text(name)? else {
            return Ok(None);
        };
        let chosen = choices.iter().find(|(choice, _)| *choice == value);
        chosen.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
            format!("{name} must be one of {}", names.join(", "))
        })
    }

    /// Returns 0 for less than that; both mean "none" or "the system's default" to libpq.
    fn number(&mut self, name: &str) -> Result<Option<u32>, String> {
        let number = self
            .text(name)?
            .map(|text| text.trim().parse::<i32>())
            .transpose();
        let number = number.map_err(|_| format!("{name} must be a whole number"))?;
        Ok(number.map(|number| u32::try_from(number).unwrap_or(0)))
    }

    fn positive(&mut self, name: &str) -> Result<Option<u32>, String> {
        Ok(self.number(name)?.filter(|number| *number > 0))
    }

    /// Checks parameters that are accepted without effect, as in libpq.
    fn check_those_without_effect(&mut self) -> Result<(), String> {
        self.one_of("sslcompression", &SWITCHES)?;
        self.one_of("gssencmode", &[("disable", ()), ("prefer", ())])?;
        self.one_of("replication", &["false", "off", "no", "0"].map(|off| (off, ())))?;
        if let Some(encoding) = self.0.get_mut("client_encoding") {
            encoding.make_ascii_uppercase();
        }
        self.one_of(
            "client_encoding",
            &["UTF8", "UTF-8", "UNICODE"].map(|name| (name, ())),
        )?;
        Ok(())
    }

    /// Reads what the driver has a setting for, except the hosts, the TLS mode and the connect timeout.
    fn server(&mut self) -> Result<tokio_postgres::Config, String> {
        let mut server = tokio_postgres::Config::new();
        let fallback_name = self.text("fallback_application_name")?;
        let name = self.text("application_name")?.or(fallback_name);
        server.application_name(name.unwrap_or_else(|| APPLICATION_NAME.to_owned()));
        if let Some(user) = self.text("user")? {
            server.user(user);
        }
        if let Some(password) = self.0.remove("password") {
            server.password(password);
        }
        if let Some(database) = self.text("dbname")? {
            server.dbname(database);
        }
        if let Some(options) = self.text("options")? {
            server.options(options);
        }
        if let Some(negotiation) = self.one_of("sslnegotiation", &NEGOTIATIONS)? {
            server.ssl_negotiation(negotiation);
        }
        if let Some(binding) = self.one_of("channel_binding", &BINDINGS)? {
            server.channel_binding(binding);
        }
        // The only parameter in milliseconds.
        let unconfirmed_ms = self.number("tcp_user_timeout")?;
        let unconfirmed_time = unconfirmed_ms.map_or(UNCONFIRMED_TIME, |ms| Duration::from_millis(ms.into()));
        if !unconfirmed_time.is_zero() {
            server.tcp_user_timeout(unconfirmed_time);
        }
        let seconds = |number: u32| Duration::from_secs(number.into());
        server
            .keepalives(self.number("keepalives")? != Some(0))
            .keepalives_idle(self.positive("keepalives_idle")?.map_or(KEEPALIVE_IDLE, seconds))
            .keepalives_interval(
                self.positive("keepalives_interval")?
                    .map_or(KEEPALIVE_INTERVAL, seconds),
            )
            .keepalives_retries(self.positive("keepalives_count")?.unwrap_or(KEEPALIVE_RETRIES));
        Ok(server)
    }

    fn identity(&mut self) -> Result<Option<Identity>, String> {
        let is_shown = self.one_of("sslcertmode", &CERTIFICATE_MODES)?.unwrap_or(true);
        match (self.path("sslcert")?, self.path("sslkey")?) {
            (Some(certificate), Some(key)) => Ok(is_shown.then_some(Identity { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err("sslcert needs sslkey: the file of the certificate's key".to_owned()),
            (None, Some(_)) => Err("sslkey needs sslcert: the file of the certificate".to_owned()),
        }
    }

    fn tls_versions(&mut self) -> Result<TlsVersions, String> {
        let from_tls13 = self.one_of("ssl_min_protocol_version", &LOWEST_VERSIONS)?;
        let up_to_tls12 = self.one_of("ssl_max_protocol_version", &HIGHEST_VERSIONS)?;
        match (from_tls13.unwrap_or(false), up_to_tls12.unwrap_or(false)) {
            (true, true) => Err("ssl_min_protocol_version is above ssl_max_protocol_version".to_owned()),
            (true, false) => Ok(TlsVersions::Only13),
            (false, true) => Ok(TlsVersions::Only12),
            (false, false) => Ok(TlsVersions::From12),
        }
    }

    fn tls(&mut self, hosts: &[OneHost], negotiation: SslNegotiation) -> Result<(TlsMode, Roots), String> {
        if self.0.get("sslmode").is_some_and(|mode| mode == b"allow") {
            return Err(
                "sslmode=allow is not supported: prefer encrypts if the server supports it".to_owned(),
            );
        }
        let mode = self.one_of("sslmode", &TLS_MODES)?;
        let by_system = self.0.get("sslrootcert").is_some_and(|roots| roots == b"system");
        let roots = match self.path("sslrootcert")? {
            Some(path) if !by_system => Roots::File(path),
            Some(_) | None => Roots::System,
        };
        let (mode, roots) = match (mode, roots) {
            _ if hosts.iter().all(|host| matches!(host.name, Host::Unix(_))) => {
                (TlsMode::Disable, Roots::System)
            }
            (None | Some(TlsMode::VerifyFull), _) if by_system => (TlsMode::VerifyFull, Roots::System),
            (Some(_), _) if by_system => {
                return Err("sslrootcert=system needs sslmode=verify-full".to_owned());
            }
            (Some(TlsMode::Require), Roots::File(path)) => (TlsMode::VerifyCa, Roots::File(path)),
            (mode, roots) => (mode.unwrap_or(TlsMode::Prefer), roots),
        };
        let is_weak = matches!(mode, TlsMode::Disable | TlsMode::Prefer);
        if is_weak && negotiation == SslNegotiation::Direct {
            return Err("sslnegotiation=direct needs sslmode=require or better".to_owned());
        }
        Ok((mode, roots))
    }

    /// Returns at least one host.
    fn hosts(&mut self) -> Result<Vec<OneHost>, String> {
        let mut names = self.list("host")?;
        let addresses = self.list("hostaddr")?;
        let addresses: Vec<Option<IpAddr>> = addresses
            .iter()
            .map(|text| address(text))
            .collect::<Result<_, _>>()?;
        if names.iter().all(String::is_empty) {
            // Hosts given only by address get it as their name for certificates.
            names = addresses.iter().flatten().map(IpAddr::to_string).collect();
        }
        if names.is_empty() {
            return Err("names no host: use postgres://HOST/DATABASE, \
                        or host=/var/run/postgresql for a socket"
                .to_owned());
        }
        if names.iter().any(String::is_empty) {
            return Err("one of the hosts is empty".to_owned());
        }
        if !addresses.is_empty() && addresses.len() != names.len() {
            return Err("hostaddr must have as many addresses as there are hosts".to_owned());
        }
        let mut ports: Vec<u16> = self
            .list("port")?
            .iter()
            .map(|text| port(text))
            .collect::<Result<_, _>>()?;
        if ports.is_empty() {
            ports.push(DEFAULT_PORT);
        }
        if ![1, names.len()].contains(&ports.len()) {
            return Err("there must be one port, or as many as there are hosts".to_owned());
        }
        let addresses = addresses.into_iter().chain(std::iter::repeat(None));
        let hosts = names.into_iter().zip(ports.into_iter().cycle()).zip(addresses);
        Ok(hosts
            .map(|((host, port), address)| OneHost {
                name: if host.starts_with('/') {
                    Host::Unix(host.into())
                } else {
                    Host::Tcp(host)
                },
                address,
                port,
                password: None,
            })
            .collect())
    }
}

/// Returns the servers' location for people.
fn location(hosts: &[OneHost], database: Option<&str>) -> String {
    let hosts: Vec<String> = hosts.iter().map(OneHost::to_string).collect();
    let database = database.map_or_else(String::new, |name| format!("/{name}"));
    format!("postgres://{}{database}", hosts.join(","))
}

/// Parses an address; `None` for a host whose name is to be resolved.
fn address(text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse().map(Some);
    address.map_err(|_| "hostaddr must be an IP address".to_owned())
}

fn port(text: &str) -> Result<u16, String> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    let port = text.parse::<u16>().ok().filter(|port| *port > 0);
    port.ok_or_else(|| "the port is not a number from 1 to 65535".to_owned())
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
/// True to send a client certificate. `sslcertmode=require` cannot be checked here and is not supported.
const CERTIFICATE_MODES: [(&str, bool); 2] = [("disable", false), ("allow", true)];
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
