//! The servers that a URL names: the order in which they are tried, and one attempt at each address of each, each
//! with a time limit. `connect.rs` decides when to connect and what a connection must find in the database.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure::PgFailure;
use super::server_info::{ServerInfo, inspect, read_only_reason};
use super::tls;
use crate::config::{OneHost, PostgresUrl, Session};

/// The limit for one address where the URL sets none (`connect_timeout=0`).
const CONNECT_TIME_MAX: Duration = Duration::from_mins(1);
/// The time for which a server that did not answer is tried after the others, and briefly where one of those answered.
const UNRESPONSIVE_FOR: Duration = Duration::from_mins(1);
/// The limit of a brief attempt: a frozen server must not keep a node from finding the new primary among the others.
const BRIEF_TIME_MAX: Duration = Duration::from_secs(1);

type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
/// A connection whose messages are read by the caller that opened it.
pub(super) type RawConnection = tokio_postgres::Connection<Socket, TlsStream>;

/// A connection to one of the wanted servers.
pub(super) struct Opened {
    pub client: Client,
    pub connection: RawConnection,
    pub server: ServerInfo,
}

/// The servers of one URL, and how they answered recently.
pub(super) struct Servers {
    /// The configuration without hosts.
    config: Config,
    hosts: Vec<OneHost>,
    tls: MakeRustlsConnect,
    /// The limit for name lookup, TCP, TLS, login and inspection together.
    time_max: Duration,
    in_random_order: bool,
    /// `target_session_attrs`, if the URL sets it.
    given: Option<Session>,
    wanted: ServerChoice,
    recent: Mutex<RecentAnswers>,
}

/// The choice among the servers.
#[derive(Clone, Copy)]
struct ServerChoice {
    session: Session,
    /// Any other server will do, if none of these answers.
    or_any: bool,
}

impl ServerChoice {
    fn to_store(given: Option<Session>, hosts: usize) -> ServerChoice {
        // A list of hosts is given to find the server that takes writes.
        let default = if hosts > 1 {
            Session::ReadWrite
        } else {
            Session::Any
        };
        ServerChoice::of(given.unwrap_or(default))
    }

    fn to_read(given: Option<Session>, hosts: usize) -> ServerChoice {
        match given {
            None if hosts > 1 => ServerChoice {
                session: Session::ReadWrite,
                or_any: true,
            },
            given => ServerChoice::of(given.unwrap_or(Session::Any)),
        }
    }

    fn of(session: Session) -> ServerChoice {
        ServerChoice {
            session,
            or_any: session == Session::PreferStandby,
        }
    }

    /// Fails with the reason when a server is not one of those wanted.
    fn check(self, server: &ServerInfo) -> Result<(), PgFailure> {
        let read_only = || PgFailure::ReadOnly(read_only_reason(server.is_standby).into());
        let not_wanted = |reason: &str| PgFailure::Unavailable(reason.into());
        match self.session {
            Session::ReadWrite if server.only_reads => Err(read_only()),
            Session::Primary if server.is_standby => Err(read_only()),
            Session::ReadOnly if !server.only_reads => Err(not_wanted(
                "it takes writes, against target_session_attrs=read-only",
            )),
            Session::Standby | Session::PreferStandby if !server.is_standby => Err(not_wanted(
                "it is no standby, against target_session_attrs=standby",
            )),
            Session::Any
            | Session::ReadWrite
            | Session::Primary
            | Session::ReadOnly
            | Session::Standby
            | Session::PreferStandby => Ok(()),
        }
    }
}

/// The recent answers of the servers, by their index in the URL.
#[derive(Default)]
struct RecentAnswers {
    /// The server that was connected to last.
    served: Option<usize>,
    /// The times until which servers that did not answer in time are tried after the others.
    unresponsive_until: Vec<Option<Instant>>,
}

impl RecentAnswers {
    fn is_unresponsive(&self, index: usize, now: Instant) -> bool {
        self.unresponsive_until[index].is_some_and(|until| now < until)
    }
}

impl Servers {
    pub fn new(url: &PostgresUrl) -> anyhow::Result<Servers> {
        Ok(Servers {
            config: url.server.clone(),
            hosts: url.hosts.clone(),
            tls: tls::connector(url)?,
            time_max: url.connect_time_max.unwrap_or(CONNECT_TIME_MAX),
            in_random_order: url.in_random_order,
            given: url.session,
            wanted: ServerChoice::to_store(url.session, url.hosts.len()),
            recent: Mutex::new(RecentAnswers {
                served: None,
                unresponsive_until: vec![None; url.hosts.len()],
            }),
        })
    }

    /// Adapts the choice to callers that only read: of several hosts without `target_session_attrs`, one that takes
    /// writes is preferred.
    pub fn for_reading(self) -> Servers {
        Servers {
            wanted: ServerChoice::to_read(self.given, self.hosts.len()),
            ..self
        }
    }

    /// Reports whether a server that takes no writes is of no use.
    pub fn must_write(&self) -> bool {
        self.wanted.session == Session::ReadWrite && !self.wanted.or_any
    }

    pub fn has_several(&self) -> bool {
        self.hosts.len() > 1
    }

    /// Opens a connection to one of the servers, trying one after another. The error names what each server answered.
    pub async fn open(&self) -> Result<Opened, PgFailure> {
        let mut failures = Vec::new();
        let mut second_choice = None;
        let mut answered = false;
        for index in self.in_order() {
            let opened = self
                .open_one(index, self.time_max_of(index, answered), &mut failures)
                .await;
            answered |= opened.is_some();
            match opened {
                Some(opened) if self.wanted.check(&opened.server).is_ok() => {
                    self.recent().served = Some(index);
                    return Ok(opened);
                }
                Some(opened) if self.wanted.or_any => {
                    second_choice.get_or_insert(opened);
                }
                Some(opened) => {
                    let failure = self.wanted.check(&opened.server).err();
                    failures.extend(failure.map(|failure| (self.hosts[index].to_string(), failure)));
                }
                None => {}
            }
        }
        second_choice.ok_or_else(|| all_of(failures))
    }

    /// Opens a connection to one server, trying one of its addresses after another.
    async fn open_one(
        &self,
        index: usize,
        time_max: Duration,
        failures: &mut Vec<(String, PgFailure)>,
    ) -> Option<Opened> {
        let host = &self.hosts[index];
        let deadline = Instant::now() + time_max;
        let configs = match self.configs(host, deadline).await {
            Ok(configs) => configs,
            Err(failure) => {
                self.note_unresponsive(index, deadline);
                failures.push((host.to_string(), failure));
                return None;
            }
        };
        let several = configs.len() > 1;
        for (config, address) in configs {
            let deadline = Instant::now() + time_max;
            match self.attempt(&config, time_max, deadline).await {
                Ok(opened) => {
                    self.recent().unresponsive_until[index] = None;
                    return Some(opened);
                }
                Err(failure) => {
                    self.note_unresponsive(index, deadline);
                    let name = match address {
                        Some(address) if several => format!("{host} ({})", address.ip()),
                        _ => host.to_string(),
                    };
                    failures.push((name, failure));
                }
            }
        }
        None
    }

    /// Returns a configuration for each address of a host.
    async fn configs(
        &self,
        host: &OneHost,
        deadline: Instant,
    ) -> Result<Vec<(Config, Option<SocketAddr>)>, PgFailure> {
        let config_for = |address: Option<SocketAddr>| {
            let mut config = self.config.clone();
            let of_one = OneHost {
                address: address.map(|address| address.ip()),
                ..host.clone()
            };
            of_one.add_to(&mut config);
            (config, address)
        };
        let name = match (&host.name, host.address) {
            (_, Some(address)) => return Ok(vec![config_for(Some(SocketAddr::new(address, host.port)))]),
            (Host::Unix(_), None) => return Ok(vec![config_for(None)]),
            (Host::Tcp(name), None) => name,
        };
        let looked_up = timeout_at(deadline, lookup_host((name.as_str(), host.port))).await;
        let looked_up = looked_up.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        let mut addresses: Vec<SocketAddr> = looked_up.map_err(|error| no_address(&error))?.collect();
        if self.in_random_order {
            addresses.shuffle(&mut rand::rng());
        }
        if addresses.is_empty() {
            return Err(no_address(&io::Error::from(io::ErrorKind::NotFound)));
        }
        Ok(addresses
            .into_iter()
            .map(|address| config_for(Some(address)))
            .collect())
    }

    async fn attempt(
        &self,
        config: &Config,
        time_max: Duration,
        deadline: Instant,
    ) -> Result<Opened, PgFailure> {
        let connected = timeout_at(deadline, config.connect(self.tls.clone()))
            .await
            .map_err(|_| PgFailure::Unavailable(format!("not connected within {time_max:?}").into()))?;
        let (client, mut connection) = connected.map_err(|error| PgFailure::of_connecting(&error))?;
        let server = {
            let inspected = inspect(&client);
            tokio::pin!(inspected);
            let ended = timeout_at(deadline, async {
                tokio::select! {
                    biased;
                    server = &mut inspected => Some(server),
                    // Messages that arrived before the end say more than the end itself.
                    _ = &mut connection => None,
                }
            });
            match ended.await {
                Ok(Some(server)) => server?,
                Ok(None) => {
                    drop(connection);
                    return Err(match inspected.await {
                        Err(failure) => failure,
                        Ok(_) => PgFailure::Unknown("the connection ended".into()),
                    });
                }
                Err(_) => return Err(PgFailure::Hung(format!("no answer within {time_max:?}").into())),
            }
        };
        Ok(Opened {
            client,
            connection,
            server,
        })
    }

    /// Notes that a server did not answer, if the attempt ended at its deadline. A brief attempt prolongs nothing: after
    /// [`UNRESPONSIVE_FOR`] the server gets its full time again.
    fn note_unresponsive(&self, index: usize, deadline: Instant) {
        let now = Instant::now();
        let mut recent = self.recent();
        if now >= deadline && !recent.is_unresponsive(index, now) {
            recent.unresponsive_until[index] = Some(now + UNRESPONSIVE_FOR);
        }
    }

    /// Returns the limit of the next attempt at a server; `answered` is true if another one has just answered.
    fn time_max_of(&self, index: usize, answered: bool) -> Duration {
        if answered && self.recent().is_unresponsive(index, Instant::now()) {
            self.time_max.min(BRIEF_TIME_MAX)
        } else {
            self.time_max
        }
    }

    /// Returns the indexes of the hosts in the order in which to try them.
    fn in_order(&self) -> Vec<usize> {
        let mut indexes: Vec<usize> = (0..self.hosts.len()).collect();
        if self.in_random_order {
            indexes.shuffle(&mut rand::rng());
        }
        let recent = self.recent();
        let now = Instant::now();
        indexes.sort_by_key(|index| {
            let is_unresponsive = recent.is_unresponsive(*index, now);
            let served_last = !self.in_random_order && recent.served == Some(*index);
            (is_unresponsive, !served_last)
        });
        indexes
    }

    fn recent(&self) -> MutexGuard<'_, RecentAnswers> {
        self.recent
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

fn no_address(error: &io::Error) -> PgFailure {
    PgFailure::Unavailable(format!("error connecting to server: {error}").into())
}

/// Combines the failures of all servers. The result counts as temporary if one of them is.
fn all_of(mut failures: Vec<(String, PgFailure)>) -> PgFailure {
    if failures.len() == 1 {
        return failures.remove(0).1;
    }
    let reasons: Vec<String> = failures
        .iter()
        .map(|(host, failure)| format!("host {host}: {}", failure.text()))
        .collect();
    let reasons = reasons.join("; ").into();
    let has = |is_kind: fn(&PgFailure) -> bool| failures.iter().any(|(_, failure)| is_kind(failure));
    let is_temporary = |failure: &PgFailure| {
        !matches!(
            failure,
            PgFailure::ReadOnly(_) | PgFailure::Refused(_) | PgFailure::Unsuitable(_)
        )
    };
    if has(is_temporary) {
        PgFailure::Unavailable(reasons)
    } else if has(|failure| matches!(failure, PgFailure::ReadOnly(_))) {
        PgFailure::ReadOnly(reasons)
    } else if has(|failure| matches!(failure, PgFailure::Refused(_))) {
        PgFailure::Refused(reasons)
    } else {
        PgFailure::Unsuitable(reasons)
    }
}

#[cfg(test)]
mod tests;
