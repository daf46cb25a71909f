//! Ways to the database: connections to a server that can store orders, not tried too often while there is none. When one is
//! opened, and how long it is trusted, is left to `link.rs`.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};
use tokio_util::task::AbortOnDropHandle;

use super::failure::Failure;
use super::look::{ServerRun, read_only_reason};
use super::schema::Schema;
use super::servers::{Opened, Servers};
use super::state::State;
use crate::config::PostgresUrl;
use crate::store::opening::OpenError;

/// A connection unused for longer is looked at first: servers, poolers and firewalls drop idle ones without a word.
pub(super) const TRUSTED_UNUSED: Duration = Duration::from_secs(15);
/// To look at a connection.
pub(super) const LOOK_TIME_MAX: Duration = Duration::from_secs(2);
/// After a failed attempt to connect the node waits so long before the next, doubling from the first to the last;
/// meanwhile callers are refused at once. The longest pause is what a failover takes at most beyond the new primary's start.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(100);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Opens connections to one URL. Knows how that went lately, for all of the node.
pub(super) struct Connector {
    servers: Servers,
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
    /// The server that was connected to takes no writes any more.
    left: Notify,
}

/// The parameters of a statement, with the types it takes them as: no round trip asks the server for them.
pub(super) type Parameters<'p> = &'p [(&'p (dyn ToSql + Sync), Type)];

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
    is_standby: bool,
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
            servers: Servers::new(url)?,
            state,
            schema,
            direct: None,
            only_reads: false,
            gate: Mutex::default(),
            writes: Mutex::default(),
            left: Notify::new(),
        })
    }

    /// Makes a connector for callers that store nothing.
    pub fn only_reading(self) -> Connector {
        Connector {
            servers: self.servers.for_reading(),
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

    /// Reports whether a connection that takes no writes is of no use.
    pub fn must_write(&self) -> bool {
        self.servers.must_write()
    }

    /// Notes that a server takes no writes any more and is left.
    pub fn leave_server(&self) {
        self.left.notify_waiters();
    }

    /// Resolves when a server is left.
    pub async fn server_left(&self) {
        self.left.notified().await;
    }

    /// A new connection to a server that can store orders. What it says about its settings is noted.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let connection = self.connect_to_read().await?;
        if connection.only_reads && !self.only_reads {
            return Err(self.refusal_of_writes(&connection));
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
                if connection.only_reads && !self.only_reads {
                    let failure = self.refusal_of_writes(connection);
                    self.failed(&failure);
                    gate(&self.writes).close(&failure, writes_round);
                } else {
                    *gate(&self.writes) = Gate::default();
                }
            }
            Err(failure) if counts => {
                self.failed(failure);
                gate(&self.gate).close(failure, round);
            }
            Err(_) => {}
        }
        connected
    }

    /// Notes a failure, which says nothing about storing where nothing is stored.
    fn failed(&self, failure: &Failure) {
        if !self.only_reads {
            self.state.failed(failure);
        }
    }

    fn refusal_of_writes(&self, connection: &Connection) -> Failure {
        let reason = read_only_reason(connection.is_standby);
        let advice = match (connection.is_standby, self.servers.has_several()) {
            (true, true) => "; target_session_attrs=read-write passes it over",
            (true, false) => "; name the primary in the URL, or all hosts",
            (false, _) => "",
        };
        Failure::ReadOnly(format!("{reason}{advice}").into())
    }

    /// Returns the reason to refuse callers that write without connecting again.
    pub fn refuses_writes(&self) -> Option<Failure> {
        gate(&self.writes).refusal()
    }

    async fn connect_and_check(&self) -> Result<Connection, Failure> {
        let Opened {
            client,
            connection,
            found,
        } = self.open().await?;
        if !self.only_reads {
            self.state.found(&found.durability());
        }
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever waits for an answer is told; a connection nobody uses is opened again when it is needed.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the database ended");
            }
        }));
        let opened = Instant::now();
        let connection = Connection {
            client,
            server: found.run,
            used: opened,
            is_old: false,
            trusted_until: Some(opened + TRUSTED_UNUSED),
            only_reads: found.only_reads,
            is_standby: found.is_standby,
            driver,
        };
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

    /// Only opens a connection to one of the servers; its messages are the caller's to read.
    pub async fn open(&self) -> Result<Opened, Failure> {
        self.servers.open().await
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
