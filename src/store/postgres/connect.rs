//! Ways to the database: connections to a server that can store orders, not tried too often while there is none. When one is
//! opened, and how long it is trusted, is left to `link.rs`.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::answered::answered;
use super::durability::Durability;
use super::failure::Failure;
use super::schema::Schema;
use super::state::State;
use super::tls;
use crate::config::PostgresUrl;
use crate::store::opening::OpenError;

/// To connect to one host, when the URL gives it no longer: the network, TLS, authentication, and a serverless database
/// that wakes up.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// A connection unused for longer is looked at first: servers, poolers and firewalls drop idle ones without a word.
pub(super) const TRUSTED_UNUSED: Duration = Duration::from_secs(15);
/// To look at a connection.
pub(super) const LOOK_TIME_MAX: Duration = Duration::from_secs(2);
/// After a failed attempt to connect the node waits so long before the next, doubling from the first to the last;
/// meanwhile callers are refused at once.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(100);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Oldest PostgreSQL whose statements these are, as `server_version_num`.
const SERVER_VERSION_MIN: i64 = 140_000;

pub(super) const READ_ONLY: &str = "the server is read-only: a standby, or set so";

/// Opens connections to one URL. Knows how that went lately, for all of the node.
pub(super) struct Connector {
    server: tokio_postgres::Config,
    tls: MakeRustlsConnect,
    state: Arc<State>,
    /// What a connection must find in the database; `None` for those that only look.
    schema: Option<Schema>,
    /// The way past the pooler, for migrations.
    direct: Option<Arc<Connector>>,
    /// A server that takes no writes is accepted as well.
    only_reads: bool,
    gate: Mutex<Gate>,
    /// Keeps callers that write from connecting while the server takes no writes.
    writes: Mutex<Gate>,
}

/// The parameters of a statement, with the types it takes them as: no round trip asks the server for them.
pub(super) type Parameters<'p> = &'p [(&'p (dyn ToSql + Sync), Type)];

type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
/// A connection whose messages are read by whoever opened it.
pub(super) type RawConnection = tokio_postgres::Connection<Socket, TlsStream>;

/// Keeps callers from connecting while the database is away.
#[derive(Default)]
struct Gate {
    /// What the last attempt met, and until when that is the answer to further ones.
    closed: Option<(Instant, Failure)>,
    pause: Duration,
    /// Counts the times it was closed: attempts that began before the last one say nothing new.
    rounds: u64,
}

impl Gate {
    fn refusal(&self) -> Option<Failure> {
        let (until, failure) = self.closed.as_ref()?;
        (Instant::now() < *until).then(|| failure.clone())
    }

    fn close(&mut self, failure: &Failure, round: u64) {
        if self.rounds != round {
            return;
        }
        self.rounds += 1;
        self.pause = (self.pause * 2).clamp(RECONNECT_PAUSE_MIN, RECONNECT_PAUSE_MAX);
        let pause = self.pause.mul_f64(rand::random_range(0.5..=1.0));
        self.closed = Some((Instant::now() + pause, failure.clone()));
    }
}

fn gate(gate: &Mutex<Gate>) -> MutexGuard<'_, Gate> {
    gate.lock().expect("no code panics while it holds this lock")
}

/// Names one database on one server from a start of that to its end.
pub(super) type ServerRun = Arc<str>;

/// An open connection; dropping it cuts it.
pub(super) struct Connection {
    pub client: Client,
    pub server: ServerRun,
    /// The time when a statement was last carried out, or the connection was opened.
    pub used: Instant,
    /// A statement was carried out since it was opened: it may have been lost after that.
    pub is_old: bool,
    /// The time until which it counts as open; `None` where another connection was found lost since it was used.
    pub trusted_until: Option<Instant>,
    /// The server takes no writes over it. It serves callers that only read.
    pub only_reads: bool,
    driver: AbortOnDropHandle<()>,
}

impl Connection {
    /// Takes leave of the server, without waiting for that.
    pub fn close(self) {
        self.driver.detach();
    }
}

impl Connector {
    pub fn new(
        url: &PostgresUrl,
        state: Arc<State>,
        schema: Option<Schema>,
    ) -> Result<Connector, anyhow::Error> {
        Ok(Connector {
            server: url.server.clone(),
            tls: tls::connector(url)?,
            state,
            schema,
            direct: None,
            only_reads: false,
            gate: Mutex::default(),
            writes: Mutex::default(),
        })
    }

    /// Makes a connector for callers that store nothing.
    pub fn only_reading(self) -> Connector {
        Connector {
            only_reads: true,
            ..self
        }
    }

    /// Makes a connector that migrates by the way past the pooler, where there is one.
    pub fn migrating_over(self, direct: Option<Arc<Connector>>) -> Connector {
        Connector { direct, ..self }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// Why this binary must not work on the database, once.
    pub fn take_refusal(&self) -> Option<OpenError> {
        self.schema.as_ref()?.take_refusal()
    }

    /// A new connection to a server that can store orders. What it says about its settings is noted.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let connection = self.connect_to_read().await?;
        if connection.only_reads && !self.only_reads {
            return Err(Failure::ReadOnly(READ_ONLY.into()));
        }
        Ok(connection)
    }

    /// A new connection, perhaps to a server that takes no writes.
    pub async fn connect_to_read(&self) -> Result<Connection, Failure> {
        self.connect_unless(|_| false).await
    }

    /// Connects as `connect_to_read` does, where some failures say nothing of whether the database is there.
    pub async fn connect_unless(
        &self,
        mut says_nothing: impl FnMut(&Failure) -> bool,
    ) -> Result<Connection, Failure> {
        let round = self.pass_gate()?;
        let writes_round = gate(&self.writes).rounds;
        let connected = self.connect_and_check().await;
        let counts = connected
            .as_ref()
            .err()
            .is_none_or(|failure| !says_nothing(failure));
        let connected = connected.map_err(Failure::of_preparing);
        match &connected {
            Ok(connection) => {
                *gate(&self.gate) = Gate::default();
                if connection.only_reads {
                    let failure = Failure::ReadOnly(READ_ONLY.into());
                    self.state.failed(&failure);
                    gate(&self.writes).close(&failure, writes_round);
                } else {
                    *gate(&self.writes) = Gate::default();
                }
            }
            Err(failure) if counts => {
                self.state.failed(failure);
                gate(&self.gate).close(failure, round);
            }
            Err(_) => {}
        }
        connected
    }

    /// Returns the reason to refuse callers that write without connecting again.
    pub fn refuses_writes(&self) -> Option<Failure> {
        gate(&self.writes).refusal()
    }

    async fn connect_and_check(&self) -> Result<Connection, Failure> {
        let (client, connection) = self.open().await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever waits for an answer is told; a connection nobody uses is opened again when it is needed.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the database ended");
            }
        }));
        let opened = Instant::now();
        let mut connection = Connection {
            client,
            server: "".into(),
            used: opened,
            is_old: false,
            trusted_until: Some(opened + TRUSTED_UNUSED),
            only_reads: false,
            driver,
        };
        (connection.server, connection.only_reads) = check_server(&connection.client, &self.state).await?;
        if let Some(schema) = &self.schema {
            let client = &connection.client;
            let direct = match &self.direct {
                Some(direct) if schema.is_to_apply(client).await? => Some(Box::pin(direct.connect()).await?),
                _ => None,
            };
            let migrating = direct.as_ref().map_or(client, |direct| &direct.client);
            schema.require(client, migrating, &self.state).await?;
        }
        Ok(connection)
    }

    /// Only opens a connection; its messages are the caller's to read.
    pub async fn open(&self) -> Result<(Client, RawConnection), Failure> {
        // One after another, when there are several.
        let hosts = self
            .server
            .get_hosts()
            .len()
            .max(self.server.get_hostaddrs().len());
        let of_one = self.server.get_connect_timeout().copied().unwrap_or_default();
        let time_max = of_one.max(CONNECT_TIME_MAX) * u32::try_from(hosts).unwrap_or(1).max(1);
        timeout(time_max, self.server.connect(self.tls.clone()))
            .await
            .map_err(|_| Failure::Unavailable(format!("not connected within {time_max:?}").into()))?
            .map_err(|error| Failure::of_connecting(&error))
    }

    fn pass_gate(&self) -> Result<u64, Failure> {
        let gate = gate(&self.gate);
        match gate.refusal() {
            Some(failure) => Err(failure),
            None => Ok(gate.rounds),
        }
    }
}

/// Opens connections to one URL.
pub(super) fn connector(
    url: &PostgresUrl,
    state: &Arc<State>,
    schema: Option<Schema>,
) -> Result<Connector, OpenError> {
    Connector::new(url, state.clone(), schema).map_err(|source| OpenError::Unavailable {
        location: url.location.clone(),
        source,
    })
}

/// Makes the error that tells why a database cannot be opened.
pub(super) fn unavailable(location: &str, failure: &Failure) -> OpenError {
    let location = location.to_owned();
    match failure {
        Failure::Unsuitable(reason) => OpenError::Unsuitable {
            location,
            reason: reason.to_string(),
        },
        _ => OpenError::Unavailable {
            location,
            source: failure.to_error("connect").into(),
        },
    }
}

/// Reads back the settings on which the promises rest. Answers which server it is, and whether it takes no writes.
async fn check_server(client: &Client, state: &State) -> Result<(ServerRun, bool), Failure> {
    let answer = answered(client.simple_query(include_str!("settings.sql"))).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let setting = |index: usize| {
        row.and_then(|row| row.get(index))
            .ok_or_else(|| Failure::undecodable("settings", "nothing"))
    };
    let version = setting(0)?;
    if version.parse::<i64>().unwrap_or(0) < SERVER_VERSION_MIN {
        let text = format!("PostgreSQL 14 or newer is needed, this is server_version_num {version}");
        return Err(Failure::Unsuitable(text.into()));
    }
    let isolation = setting(2)?;
    if isolation != "read committed" {
        let text = format!(
            "default_transaction_isolation is {isolation} for this user and database: set it to read committed"
        );
        return Err(Failure::Unsuitable(text.into()));
    }
    let encoding = setting(9)?;
    if encoding != "UTF8" {
        let text = format!(
            "the database's encoding is {encoding}, which does not have every text: make another one \
             (create database … encoding 'UTF8' template template0)"
        );
        return Err(Failure::Unsuitable(text.into()));
    }
    state.found(&Durability::read(|index| setting(3 + index))?);
    Ok((setting(8)?.into(), setting(1)? == "on"))
}
