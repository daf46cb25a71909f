//! The servers that a URL names: the order in which they are tried, and one attempt at each address of each, within one
//! limit. When to connect, and what a connection must find in the database, is left to `connect.rs`.

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

use super::failure::Failure;
use super::look::{Found, look, read_only_reason};
use super::tls;
use crate::config::{OneHost, PostgresUrl, Session};

/// Longest wait for one address where the URL wants no limit (`connect_timeout=0`).
const CONNECT_TIME_MAX: Duration = Duration::from_mins(1);
/// Time for which a server that was silent is tried after the others, and briefly where one of those answered.
const SILENT_FOR: Duration = Duration::from_mins(1);
/// Maximum time of a brief attempt: a frozen server must not keep a node from finding the new primary among the others.
const BRIEF_TIME_MAX: Duration = Duration::from_secs(1);

type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
/// A connection whose messages are read by whoever opened it.
pub(super) type RawConnection = tokio_postgres::Connection<Socket, TlsStream>;

/// A connection to a server that is one of those wanted.
pub(super) struct Opened {
    pub client: Client,
    pub connection: RawConnection,
    pub found: Found,
}

pub(super) struct Servers {
    /// Without a host.
    config: Config,
    hosts: Vec<OneHost>,
    tls: MakeRustlsConnect,
    /// For the name, TCP, TLS, log-in and the look together.
    time_max: Duration,
    in_random_order: bool,
    /// `target_session_attrs`, where the URL has it.
    given: Option<Session>,
    wanted: Wanted,
    lately: Mutex<Lately>,
}

/// Which servers are wanted.
#[derive(Clone, Copy)]
struct Wanted {
    session: Session,
    /// Any other one, where none of these answers.
    or_any: bool,
}

impl Wanted {
    fn to_store(given: Option<Session>, hosts: usize) -> Wanted {
        // A list is there to find the server that writes.
        let usual = if hosts > 1 {
            Session::ReadWrite
        } else {
            Session::Any
        };
        Wanted::of(given.unwrap_or(usual))
    }

    fn to_read(given: Option<Session>, hosts: usize) -> Wanted {
        match given {
            None if hosts > 1 => Wanted {
                session: Session::ReadWrite,
                or_any: true,
            },
            given => Wanted::of(given.unwrap_or(Session::Any)),
        }
    }

    fn of(session: Session) -> Wanted {
        Wanted {
            session,
            or_any: session == Session::PreferStandby,
        }
    }

    /// Checks whether a server is one of those wanted.
    fn check(self, found: &Found) -> Result<(), Failure> {
        let read_only = || Failure::ReadOnly(read_only_reason(found.is_standby).into());
        let not_wanted = |reason: &str| Failure::Unavailable(reason.into());
        match self.session {
            Session::ReadWrite if found.only_reads => Err(read_only()),
            Session::Primary if found.is_standby => Err(read_only()),
            Session::ReadOnly if !found.only_reads => Err(not_wanted(
                "it takes writes, against target_session_attrs=read-only",
            )),
            Session::Standby | Session::PreferStandby if !found.is_standby => Err(not_wanted(
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

/// How the servers answered, by their places in the URL.
#[derive(Default)]
struct Lately {
    /// The one that served last.
    served: Option<usize>,
    /// The times until which those that did not answer in time come after the others.
    silent_until: Vec<Option<Instant>>,
}

impl Lately {
    fn is_silent(&self, place: usize, now: Instant) -> bool {
        self.silent_until[place].is_some_and(|until| now < until)
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
            wanted: Wanted::to_store(url.session, url.hosts.len()),
            lately: Mutex::new(Lately {
                served: None,
                silent_until: vec![None; url.hosts.len()],
            }),
        })
    }

    /// Makes the servers those of callers that store nothing: of several hosts without `target_session_attrs` one that
    /// takes writes is preferred.
    pub fn for_reading(self) -> Servers {
        Servers {
            wanted: Wanted::to_read(self.given, self.hosts.len()),
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

    /// Opens a connection to one of the servers, trying one after another. Says of each what it met when there is none.
    pub async fn open(&self) -> Result<Opened, Failure> {
        let mut failures = Vec::new();
        let mut second_choice = None;
        let mut answered = false;
        for place in self.in_order() {
            let opened = self
                .open_one(place, self.time_max_of(place, answered), &mut failures)
                .await;
            answered |= opened.is_some();
            match opened {
                Some(opened) if self.wanted.check(&opened.found).is_ok() => {
                    self.lately().served = Some(place);
                    return Ok(opened);
                }
                Some(opened) if self.wanted.or_any => {
                    second_choice.get_or_insert(opened);
                }
                Some(opened) => {
                    let failure = self.wanted.check(&opened.found).err();
                    failures.extend(failure.map(|failure| (self.hosts[place].to_string(), failure)));
                }
                None => {}
            }
        }
        second_choice.ok_or_else(|| all_of(failures))
    }

    /// Opens a connection to one server, by one of its addresses after another.
    async fn open_one(
        &self,
        place: usize,
        time_max: Duration,
        failures: &mut Vec<(String, Failure)>,
    ) -> Option<Opened> {
        let host = &self.hosts[place];
        let deadline = Instant::now() + time_max;
        let ways = match self.ways(host, deadline).await {
            Ok(ways) => ways,
            Err(failure) => {
                self.note_silence(place, deadline);
                failures.push((host.to_string(), failure));
                return None;
            }
        };
        let several = ways.len() > 1;
        for (config, address) in ways {
            let deadline = Instant::now() + time_max;
            match self.attempt(&config, time_max, deadline).await {
                Ok(opened) => {
                    self.lately().silent_until[place] = None;
                    return Some(opened);
                }
                Err(failure) => {
                    self.note_silence(place, deadline);
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
    async fn ways(
        &self,
        host: &OneHost,
        deadline: Instant,
    ) -> Result<Vec<(Config, Option<SocketAddr>)>, Failure> {
        let way = |address: Option<SocketAddr>| {
            let mut config = self.config.clone();
            let of_one = OneHost {
                address: address.map(|address| address.ip()),
                ..host.clone()
            };
            of_one.add_to(&mut config);
            (config, address)
        };
        let name = match (&host.name, host.address) {
            (_, Some(address)) => return Ok(vec![way(Some(SocketAddr::new(address, host.port)))]),
            (Host::Unix(_), None) => return Ok(vec![way(None)]),
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
        Ok(addresses.into_iter().map(|address| way(Some(address))).collect())
    }

    async fn attempt(
        &self,
        config: &Config,
        time_max: Duration,
        deadline: Instant,
    ) -> Result<Opened, Failure> {
        let connected = timeout_at(deadline, config.connect(self.tls.clone()))
            .await
            .map_err(|_| Failure::Unavailable(format!("not connected within {time_max:?}").into()))?;
        let (client, mut connection) = connected.map_err(|error| Failure::of_connecting(&error))?;
        let found = {
            let found = look(&client);
            tokio::pin!(found);
            let ended = timeout_at(deadline, async {
                tokio::select! {
                    biased;
                    found = &mut found => Some(found),
                    // The messages that came before the end say more than the end.
                    _ = &mut connection => None,
                }
            });
            match ended.await {
                Ok(Some(found)) => found?,
                Ok(None) => {
                    drop(connection);
                    return Err(match found.await {
                        Err(failure) => failure,
                        Ok(_) => Failure::Unknown("the connection ended".into()),
                    });
                }
                Err(_) => return Err(Failure::Hung(format!("no answer within {time_max:?}").into())),
            }
        };
        Ok(Opened {
            client,
            connection,
            found,
        })
    }

    /// Notes that an attempt failed, where that was for want of an answer. A brief attempt prolongs nothing: after
    /// [`SILENT_FOR`] the server gets its full time again.
    fn note_silence(&self, place: usize, deadline: Instant) {
        let now = Instant::now();
        let mut lately = self.lately();
        if now >= deadline && !lately.is_silent(place, now) {
            lately.silent_until[place] = Some(now + SILENT_FOR);
        }
    }

    /// Returns the time that the next attempt at a server may take; `answered` is true if another one has just answered.
    fn time_max_of(&self, place: usize, answered: bool) -> Duration {
        if answered && self.lately().is_silent(place, Instant::now()) {
            self.time_max.min(BRIEF_TIME_MAX)
        } else {
            self.time_max
        }
    }

    /// Returns the places of the hosts, in the order in which they are to be tried.
    fn in_order(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.hosts.len()).collect();
        if self.in_random_order {
            places.shuffle(&mut rand::rng());
        }
        let lately = self.lately();
        let now = Instant::now();
        places.sort_by_key(|place| {
            let is_silent = lately.is_silent(*place, now);
            let served_last = !self.in_random_order && lately.served == Some(*place);
            (is_silent, !served_last)
        });
        places
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.lately
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

fn no_address(error: &io::Error) -> Failure {
    Failure::Unavailable(format!("error connecting to server: {error}").into())
}

/// Makes one failure of those that the servers met. It passes as soon as one of them does.
fn all_of(mut failures: Vec<(String, Failure)>) -> Failure {
    if failures.len() == 1 {
        return failures.remove(0).1;
    }
    let told: Vec<String> = failures
        .iter()
        .map(|(host, failure)| format!("host {host}: {}", failure.text()))
        .collect();
    let told = told.join("; ").into();
    let has = |is_kind: fn(&Failure) -> bool| failures.iter().any(|(_, failure)| is_kind(failure));
    let passes = |failure: &Failure| {
        !matches!(
            failure,
            Failure::ReadOnly(_) | Failure::Refused(_) | Failure::Unsuitable(_)
        )
    };
    if has(passes) {
        Failure::Unavailable(told)
    } else if has(|failure| matches!(failure, Failure::ReadOnly(_))) {
        Failure::ReadOnly(told)
    } else if has(|failure| matches!(failure, Failure::Refused(_))) {
        Failure::Refused(told)
    } else {
        Failure::Unsuitable(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Database, PasswordSources};

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_gets_little_time_once_another_answered() {
        let url = "postgres://me:x@a,b/db?connect_timeout=3";
        let (database, _) = Database::parse(url, &PasswordSources::default()).unwrap();
        let Database::Postgres(database) = database else {
            panic!("a URL of PostgreSQL")
        };
        let servers = Servers::new(&database.url).unwrap();
        let (full, brief) = (Duration::from_secs(3), BRIEF_TIME_MAX);
        let times = || [false, true].map(|answered| servers.time_max_of(0, answered));
        assert_eq!(times(), [full, full]);
        servers.note_silence(0, Instant::now());
        assert_eq!(times(), [full, brief]);
        // A brief attempt that fails does not prolong it.
        tokio::time::advance(SILENT_FOR / 2).await;
        servers.note_silence(0, Instant::now());
        tokio::time::advance(SILENT_FOR / 2).await;
        assert_eq!(times(), [full, full]);
        assert_eq!(servers.time_max_of(1, true), full);
    }
}
