//! Opens connections to a server that can store orders, and limits the attempts while there is none.
//! `class_connection.rs` decides how long a connection is trusted; `pool.rs` decides when one is opened.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};
use tokio_util::task::AbortOnDropHandle;

use super::database_state::DatabaseState;
use super::failure::PgFailure;
use super::schema::Schema;
use super::server_info::{ServerRun, read_only_reason};
use super::servers::{Opened, Servers};
use crate::config::PostgresUrl;
use crate::store::opening::OpenError;

/// The time for which an idle connection is trusted without a check: servers, poolers and firewalls drop idle ones
/// silently.
pub(super) const TRUSTED_IDLE_MAX: Duration = Duration::from_secs(15);
/// The limit for checking a connection.
pub(super) const CHECK_TIME_MAX: Duration = Duration::from_secs(2);
/// The pause after a failed attempt to connect. It doubles from the first value to the last; meanwhile callers are
/// refused at once. A failover takes at most the longest pause, and a brief attempt at each unresponsive server, beyond
/// the start of the new primary.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(100);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Opens connections to one URL, and remembers for the whole node how that went.
pub(super) struct Connector {
    servers: Servers,
    state: Arc<DatabaseState>,
    /// The schema that a connection must find; `None` for callers that only read or manage the schema.
    schema: Option<Schema>,
    /// Connects past the pooler, for migrations.
    direct: Option<Arc<Connector>>,
    /// Servers that take no writes are accepted.
    only_reads: bool,
    backoff: Mutex<ConnectBackoff>,
    /// Refuses writing callers while the server takes no writes.
    write_backoff: Mutex<ConnectBackoff>,
    /// Notified when the connected server takes no writes any more.
    server_left: Notify,
}

/// Parameters of a statement with their types, so that no round trip asks the server for the types.
pub(super) type Parameters<'p> = &'p [(&'p (dyn ToSql + Sync), Type)];

/// Refuses callers for a while after a failed attempt to connect.
#[derive(Default)]
struct ConnectBackoff {
    /// The failure of the latest attempt, and the time until which further attempts get it at once.
    refusing_until: Option<(Instant, PgFailure)>,
    pause: Duration,
    /// Counts the recorded failures. An attempt that began before the latest one adds nothing new.
    rounds: u64,
}

impl ConnectBackoff {
    fn refusal(&self) -> Option<PgFailure> {
        let (until, failure) = self.refusing_until.as_ref()?;
        (Instant::now() < *until).then(|| failure.clone())
    }

    fn record_failure(&mut self, failure: &PgFailure, round: u64) {
        if self.rounds != round {
            return;
        }
        self.rounds += 1;
        self.pause = (self.pause * 2).clamp(RECONNECT_PAUSE_MIN, RECONNECT_PAUSE_MAX);
        let pause = self.pause.mul_f64(rand::random_range(0.5..=1.0));
        self.refusing_until = Some((Instant::now() + pause, failure.clone()));
    }
}

fn lock(backoff: &Mutex<ConnectBackoff>) -> MutexGuard<'_, ConnectBackoff> {
    backoff.lock().expect("no code panics while it holds this lock")
}

/// An open connection. Dropping it cuts it off.
pub(super) struct Connection {
    pub client: Client,
    pub server: ServerRun,
    /// The time when it last ran a statement, or was opened.
    pub used: Instant,
    /// It has run a statement since it was opened, so it may have been lost since.
    pub is_old: bool,
    /// The time until which it counts as open; `None` if another connection has been found lost since it was used.
    pub trusted_until: Option<Instant>,
    /// The server takes no writes over it. It serves callers that only read.
    pub only_reads: bool,
    is_standby: bool,
    driver: AbortOnDropHandle<()>,
}

impl Connection {
    /// Closes the connection in good order, without waiting for that.
    pub fn close(self) {
        self.driver.detach();
    }
}

impl Connector {
    pub fn new(
        url: &PostgresUrl,
        state: Arc<DatabaseState>,
        schema: Option<Schema>,
    ) -> Result<Connector, anyhow::Error> {
        Ok(Connector {
            servers: Servers::new(url)?,
            state,
            schema,
            direct: None,
            only_reads: false,
            backoff: Mutex::default(),
            write_backoff: Mutex::default(),
            server_left: Notify::new(),
        })
    }

    /// Makes a connector for callers that only read.
    pub fn only_reading(self) -> Connector {
        Connector {
            servers: self.servers.for_reading(),
            only_reads: true,
            ..self
        }
    }

    /// Makes a connector that migrates over the direct URL, if there is one.
    pub fn migrating_over(self, direct: Option<Arc<Connector>>) -> Connector {
        Connector { direct, ..self }
    }

    pub fn state(&self) -> &DatabaseState {
        &self.state
    }

    /// Takes the reason why this binary must not work on the database, if there is one.
    pub fn take_refusal(&self) -> Option<OpenError> {
        self.schema.as_ref()?.take_refusal()
    }

    /// Reports whether connections that take no writes are useless.
    pub fn must_write(&self) -> bool {
        self.servers.must_write()
    }

    /// Notes that the connected server takes no writes any more.
    pub fn leave_server(&self) {
        self.server_left.notify_waiters();
    }

    /// Resolves when the connected server takes no writes any more.
    pub async fn server_left(&self) {
        self.server_left.notified().await;
    }

    /// Opens a connection to a server that can store orders. Fails with [`PgFailure::ReadOnly`] when it takes no
    /// writes.
    pub async fn connect(&self) -> Result<Connection, PgFailure> {
        let connection = self.connect_to_read().await?;
        if connection.only_reads && !self.only_reads {
            return Err(self.refusal_of_writes(&connection));
        }
        Ok(connection)
    }

    /// Opens a connection, which may lead to a server that takes no writes.
    pub async fn connect_to_read(&self) -> Result<Connection, PgFailure> {
        self.connect_unless(|_| false).await
    }

    /// Connects like [`Connector::connect_to_read`]. Failures for which `says_nothing` is true do not count as the
    /// database being away.
    pub async fn connect_unless(
        &self,
        mut says_nothing: impl FnMut(&PgFailure) -> bool,
    ) -> Result<Connection, PgFailure> {
        let round = self.check_backoff()?;
        let writes_round = lock(&self.write_backoff).rounds;
        let connected = self.connect_and_check().await;
        let counts = connected
            .as_ref()
            .err()
            .is_none_or(|failure| !says_nothing(failure));
        let connected = connected.map_err(PgFailure::while_preparing);
        match &connected {
            Ok(connection) => {
                *lock(&self.backoff) = ConnectBackoff::default();
                if connection.only_reads && !self.only_reads {
                    let failure = self.refusal_of_writes(connection);
                    self.failed(&failure);
                    lock(&self.write_backoff).record_failure(&failure, writes_round);
                } else {
                    *lock(&self.write_backoff) = ConnectBackoff::default();
                }
            }
            Err(failure) if counts => {
                self.failed(failure);
                lock(&self.backoff).record_failure(failure, round);
            }
            Err(_) => {}
        }
        connected
    }

    /// Reports a failure to the store's state, unless the connector only reads.
    fn failed(&self, failure: &PgFailure) {
        if !self.only_reads {
            self.state.failed(failure);
        }
    }

    fn refusal_of_writes(&self, connection: &Connection) -> PgFailure {
        let reason = read_only_reason(connection.is_standby);
        let advice = match (connection.is_standby, self.servers.has_several()) {
            (true, true) => "; target_session_attrs=read-write passes it over",
            (true, false) => "; name the primary in the URL, or all hosts",
            (false, _) => "",
        };
        PgFailure::ReadOnly(format!("{reason}{advice}").into())
    }

    /// Returns the failure for writing callers while another attempt would be too early.
    pub fn refuses_writes(&self) -> Option<PgFailure> {
        lock(&self.write_backoff).refusal()
    }

    async fn connect_and_check(&self) -> Result<Connection, PgFailure> {
        let Opened {
            client,
            connection,
            server,
        } = self.open().await?;
        if !self.only_reads {
            self.state.found(&server.durability());
        }
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // Callers that wait for an answer get an error. An idle connection is opened again when it is needed.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the database ended");
            }
        }));
        let opened = Instant::now();
        let connection = Connection {
            client,
            server: server.run,
            used: opened,
            is_old: false,
            trusted_until: Some(opened + TRUSTED_IDLE_MAX),
            only_reads: server.only_reads,
            is_standby: server.is_standby,
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

    /// Opens a connection to one of the servers without checking the schema. The caller reads its messages.
    pub async fn open(&self) -> Result<Opened, PgFailure> {
        self.servers.open().await
    }

    fn check_backoff(&self) -> Result<u64, PgFailure> {
        let backoff = lock(&self.backoff);
        match backoff.refusal() {
            Some(failure) => Err(failure),
            None => Ok(backoff.rounds),
        }
    }
}

/// Makes a connector for a URL.
pub(super) fn connector(
    url: &PostgresUrl,
    state: &Arc<DatabaseState>,
    schema: Option<Schema>,
) -> Result<Connector, OpenError> {
    Connector::new(url, state.clone(), schema).map_err(|source| OpenError::Unavailable {
        location: url.location.clone(),
        source,
    })
}

/// Makes the error for a database that cannot be opened.
pub(super) fn unavailable(location: &str, failure: &PgFailure) -> OpenError {
    let location = location.to_owned();
    match failure {
        PgFailure::Unsuitable(reason) => OpenError::Unsuitable {
            location,
            reason: reason.to_string(),
        },
        _ => OpenError::Unavailable {
            location,
            source: failure.to_error("connect").into(),
        },
    }
}
