//! Connections to the servers of `DATABASE_READ_URL`: few, opened on demand, each checked out for one read-only
//! transaction. `standby_reader.rs` decides whether they are used at all.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use tokio_postgres::Row;

use super::super::class_pool::ReadSource;
use super::super::connect::{Connection, Connector, Parameters, TRUSTED_IDLE_MAX, connector};
use super::super::database_state::DatabaseState;
use super::super::failure::PgFailure;
use crate::config::PostgresUrl;
use crate::store::opening::OpenError;

/// The most concurrent reads on a standby: as many as lists and feed pages have connections to the primary.
const SESSIONS_MAX: usize = 6;
/// The longest wait for a connection; after that the primary is asked.
const WAIT_MAX: Duration = Duration::from_secs(1);

pub struct Sessions {
    connector: Connector,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

/// A connection with a transaction. Dropping it cuts the connection off.
pub struct Session<'s> {
    connection: Connection,
    sessions: &'s Sessions,
    _permit: SemaphorePermit<'s>,
}

impl Sessions {
    /// Opens no connection yet.
    pub fn new(url: &PostgresUrl) -> Result<Sessions, OpenError> {
        // It has its own state, since failures here say nothing about storing.
        let connector = connector(url, &DatabaseState::new().into(), None)?;
        Ok(Sessions {
            connector: connector.only_reading(),
            idle: Mutex::default(),
            permits: Semaphore::new(SESSIONS_MAX),
        })
    }

    /// Checks out a connection; `None` while all are in use.
    pub async fn checkout(&self) -> Result<Option<Session<'_>>, PgFailure> {
        let Ok(permit) = timeout(WAIT_MAX, self.permits.acquire()).await else {
            return Ok(None);
        };
        let permit = permit.map_err(|_| PgFailure::Closed)?;
        let idle = self.take_idle();
        let connection = match idle {
            Some(connection) => connection,
            None => Box::pin(self.connector.connect()).await?,
        };
        Ok(Some(Session {
            connection,
            sessions: self,
            _permit: permit,
        }))
    }

    /// Cuts off idle connections: the server does not answer, or has changed.
    pub fn drop_idle(&self) {
        self.idle().clear();
    }

    /// Refuses further checkouts.
    pub fn close(&self) {
        self.permits.close();
        for connection in self.idle().drain(..) {
            connection.close();
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle();
        let now = Instant::now();
        idle.retain(|connection| {
            !connection.client.is_closed() && now.duration_since(connection.used) < TRUSTED_IDLE_MAX
        });
        idle.pop()
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle();
        // If the sessions were closed meanwhile, the connection is dropped.
        if !self.permits.is_closed() {
            idle.push(connection);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().expect("no code panics while it holds this lock")
    }
}

impl Session<'_> {
    /// Begins the transaction, in which no statement takes longer than `time_max`, and runs its first read. Each
    /// statement has a view of its own, so a later one shows at least what an earlier one showed.
    pub async fn begin(
        &self,
        time_max: Duration,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PgFailure> {
        let limit_ms = time_max.as_millis();
        let begin = format!(
            "begin isolation level read committed read only; set local statement_timeout = {limit_ms}; \
             set local idle_in_transaction_session_timeout = {limit_ms}"
        );
        let transaction = self.connection.client.batch_execute(&begin);
        let (transaction, answer) = join(transaction, self.read(statement, parameters)).await;
        transaction.map_err(|error| PgFailure::of(&error))?;
        answer
    }

    /// Ends the transaction, and returns the connection for further use.
    pub async fn end(mut self) -> Result<(), PgFailure> {
        let ended = self.connection.client.batch_execute("commit").await;
        ended.map_err(|error| PgFailure::of(&error))?;
        self.connection.used = Instant::now();
        self.sessions.give_back(self.connection);
        Ok(())
    }
}

impl ReadSource for Session<'_> {
    async fn read(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, PgFailure> {
        let answer = self.connection.client.query_typed(statement, parameters).await;
        answer.map_err(|error| PgFailure::of(&error).while_reading())
    }
}
