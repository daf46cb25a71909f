//! A connection of one's own: opened when it is needed and again when it was lost, looked at before it is trusted, given up
//! when it hangs. What is said over it is left to the modules beside this one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::{Row, SimpleQueryMessage};

use super::connect::{
    ANSWER_TIME_MAX, Connection, Connector, LOOK_TIME_MAX, Parameters, ServerRun, answered_within,
};
use super::failure::Failure;

/// A connection unused for longer is looked at first: servers, poolers and firewalls drop idle ones without a word.
const TRUSTED_UNUSED: Duration = Duration::from_secs(15);

pub(super) struct Link {
    connector: Arc<Connector>,
    connection: Option<Connection>,
    used: Instant,
    /// The latest repeatable statement was sent once more after its answer was lost.
    repeated: bool,
}

impl Link {
    pub fn new(connector: Arc<Connector>) -> Link {
        Link {
            connector,
            connection: None,
            used: Instant::now(),
            repeated: false,
        }
    }

    /// Carries out one statement, which is one transaction and not to be carried out twice: a connection that was not
    /// used for a while is looked at first.
    pub async fn once(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        if !self.is_trusted().await {
            self.connection = None;
        }
        let answer = self.query(ANSWER_TIME_MAX, statement, parameters).await;
        if answer.is_ok() {
            self.connector.state().stored();
        }
        answer
    }

    /// The same for one that does no harm when it is carried out twice: a connection that turns out to be lost, or a
    /// deadlock, is no reason to fail.
    pub async fn repeatable(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        self.repeatable_within(ANSWER_TIME_MAX, statement, parameters)
            .await
    }

    /// The same for one whose answer is of no use any more after so long.
    pub async fn repeatable_within(
        &mut self,
        time_max: Duration,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let old = self.connection.is_some();
        self.repeated = false;
        match self.query(time_max, statement, parameters).await {
            Err(Failure::Unknown(_)) if old => {
                self.repeated = true;
                self.query(time_max, statement, parameters).await
            }
            Err(Failure::Again(_)) => self.query(time_max, statement, parameters).await,
            answer => answer,
        }
    }

    /// Whether the latest repeatable statement may have stored what its answer does not tell of.
    pub fn was_repeated(&self) -> bool {
        self.repeated
    }

    /// The same for one that only reads.
    pub async fn read(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        let answer = self.repeatable(statement, parameters).await;
        answer.map_err(Failure::of_reading)
    }

    /// Carries out a text of several statements, sent as one message; it does no harm when it is carried out twice.
    pub async fn flight(&mut self, statements: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        let old = self.connection.is_some();
        match self.fly(statements, ANSWER_TIME_MAX).await {
            Err(Failure::Unknown(_)) if old => self.fly(statements, ANSWER_TIME_MAX).await,
            answer => answer,
        }
    }

    /// The same, not repeated, and with a time of its own.
    pub async fn fly(
        &mut self,
        statements: &str,
        time_max: Duration,
    ) -> Result<Vec<SimpleQueryMessage>, Failure> {
        let connection = self.take_connection().await?;
        let answer = answered_within(time_max, connection.client.simple_query(statements)).await;
        match answer {
            Ok(answer) => {
                self.worked(connection);
                Ok(answer)
            }
            // The text may have begun a transaction: the connection is not used on, whatever went wrong.
            Err(failure) => {
                self.connector.state().failed(&failure);
                if matches!(failure, Failure::Hung(_)) {
                    self.give_up(connection);
                }
                Err(failure)
            }
        }
    }

    /// Of a connection that hangs nobody waits for anything any more, least of all for a word that may hang as well.
    fn give_up(&self, connection: Connection) {
        let connector = self.connector.clone();
        tokio::spawn(async move { connector.cancel(&connection.client).await });
    }

    async fn query(
        &mut self,
        time_max: Duration,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let connection = self.take_connection().await?;
        let asked = connection.client.query_typed(statement, parameters);
        match answered_within(time_max, asked).await {
            Ok(answer) => {
                self.worked(connection);
                Ok(answer)
            }
            Err(failure) => {
                self.connector.state().failed(&failure);
                if failure.leaves_connection_usable() {
                    self.connection = Some(connection);
                } else if matches!(failure, Failure::Hung(_)) {
                    self.give_up(connection);
                }
                Err(failure)
            }
        }
    }

    /// Opens the connection when there is none; answers where it leads.
    pub async fn open(&mut self) -> Result<ServerRun, Failure> {
        let connection = self.take_connection().await?;
        let server = connection.server.clone();
        self.connection = Some(connection);
        Ok(server)
    }

    pub fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Out of the link while a statement is under way: a caller who goes away then takes the connection with him, and
    /// the next one does not wait for an answer that is not his, nor find himself in a transaction that is not his.
    async fn take_connection(&mut self) -> Result<Connection, Failure> {
        match self.connection.take() {
            Some(connection) if !connection.client.is_closed() => Ok(connection),
            Some(_) | None => self.connector.connect().await,
        }
    }

    fn worked(&mut self, connection: Connection) {
        self.connection = Some(connection);
        self.used = Instant::now();
        self.connector.state().works();
    }

    async fn is_trusted(&self) -> bool {
        match &self.connection {
            None => false,
            Some(connection) if connection.client.is_closed() => false,
            Some(_) if self.used.elapsed() < TRUSTED_UNUSED => true,
            Some(connection) => {
                let looked_at = timeout(LOOK_TIME_MAX, connection.client.check_connection());
                matches!(looked_at.await, Ok(Ok(())))
            }
        }
    }
}
