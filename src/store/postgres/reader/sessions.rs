//! Connections to the servers of `DATABASE_READ_URL`: few, opened when they are needed, each lent for one transaction that only
//! reads. Whether they are asked at all is left to `reader.rs`.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use tokio_postgres::Row;

use super::super::connect::{Connection, Connector, Parameters, TRUSTED_UNUSED, connector};
use super::super::failure::Failure;
use super::super::links::Reads;
use super::super::state::State;
use crate::config::PostgresUrl;
use crate::store::opening::OpenError;

/// Reads under way on a standby at once: as many as lists and pages of the feed have connections to the primary.
const SESSIONS_MAX: usize = 6;
/// The longest wait for one of them; then the primary is asked.
const WAIT_MAX: Duration = Duration::from_secs(1);

pub struct Sessions {
    connector: Connector,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
}

/// A connection with a transaction on it. Dropping it cuts the connection.
pub struct Session<'s> {
    connection: Connection,
    sessions: &'s Sessions,
    _place: SemaphorePermit<'s>,
}

impl Sessions {
    /// Opens none yet.
    pub fn new(url: &PostgresUrl) -> Result<Sessions, OpenError> {
        // Its own state: what happens here says nothing about storing.
        let connector = connector(url, &State::new().into(), None)?;
        Ok(Sessions {
            connector: connector.only_reading(),
            idle: Mutex::default(),
            places: Semaphore::new(SESSIONS_MAX),
        })
    }

    /// Lends a connection; `None` while all are in use.
    pub async fn lend(&self) -> Result<Option<Session<'_>>, Failure> {
        let Ok(place) = timeout(WAIT_MAX, self.places.acquire()).await else {
            return Ok(None);
        };
        let place = place.map_err(|_| Failure::Closed)?;
        let idle = self.take_idle();
        let connection = match idle {
            Some(connection) => connection,
            None => Box::pin(self.connector.connect()).await?,
        };
        Ok(Some(Session {
            connection,
            sessions: self,
            _place: place,
        }))
    }

    /// Cuts what lies idle: the server does not answer, or is not the one that it was.
    pub fn distrust(&self) {
        self.idle().clear();
    }

    /// Lends nothing any more.
    pub fn close(&self) {
        self.places.close();
        for connection in self.idle().drain(..) {
            connection.close();
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle();
        let now = Instant::now();
        idle.retain(|connection| {
            !connection.client.is_closed() && now.duration_since(connection.used) < TRUSTED_UNUSED
        });
        idle.pop()
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle();
        // Closed meanwhile: dropped.
        if !self.places.is_closed() {
            idle.push(connection);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().expect("no code panics while it holds this lock")
    }
}

impl Session<'_> {
    /// Begins the transaction, in which no statement takes longer than `time_max`, and reads. Each statement has a view of its own,
    /// so that one shows what an earlier one told of.
    pub async fn begin(
        &self,
        time_max: Duration,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let limit_ms = time_max.as_millis();
        let begin = format!(
            "begin isolation level read committed read only; set local statement_timeout = {limit_ms}; \
             set local idle_in_transaction_session_timeout = {limit_ms}"
        );
        let transaction = self.connection.client.batch_execute(&begin);
        let (transaction, answer) = join(transaction, self.read(statement, parameters)).await;
        transaction.map_err(|error| Failure::of(&error))?;
        answer
    }

    /// Ends the transaction; the connection may be used on.
    pub async fn end(mut self) -> Result<(), Failure> {
        let ended = self.connection.client.batch_execute("commit").await;
        ended.map_err(|error| Failure::of(&error))?;
        self.connection.used = Instant::now();
        self.sessions.give_back(self.connection);
        Ok(())
    }
}

impl Reads for Session<'_> {
    async fn read(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        let answer = self.connection.client.query_typed(statement, parameters).await;
        answer.map_err(|error| Failure::of(&error).of_reading())
    }
}
