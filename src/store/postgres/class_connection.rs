//! The connection of one class of work to the database. Each statement checks a connection out of the pool. A
//! connection is checked before it is trusted, given up when it hangs, and its statement is never cancelled. While a
//! writing statement hangs, no other is sent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join3;
use tokio::time::timeout;
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::await_answer::{ANSWER_TIME_MAX, await_answer_within};
use super::begin_epoch::{self, Cause};
use super::classes::Class;
use super::connect::{CHECK_TIME_MAX, Parameters};
use super::database_state::DatabaseState;
use super::failure::PgFailure;
use super::pool::{Pool, PooledConnection};

/// Tenths of the caller's time limit after which the server ends a statement, so that it gives up before its caller
/// does.
const SERVER_TENTHS: u32 = 9;

/// Runs statements for one class, one after another.
pub(super) struct ClassConnection {
    pool: Arc<Pool>,
    class: Class,
    /// The latest idempotent statement was sent again after its answer was lost.
    repeated: bool,
}

impl ClassConnection {
    pub fn new(pool: Arc<Pool>, class: Class) -> ClassConnection {
        ClassConnection {
            pool,
            class,
            repeated: false,
        }
    }

    /// Runs a statement, which is its own transaction and must not run twice. A connection that was idle for long is
    /// checked first.
    pub async fn execute_once(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PgFailure> {
        self.wait_until_writable().await?;
        let pooled = loop {
            let pooled = self.checkout().await?;
            if pooled.is_trusted() {
                break pooled;
            }
            if let Some(pooled) = checked(pooled).await {
                break pooled;
            }
        };
        let limit = (!self.class.stores_by_functions()).then(|| limit(ANSWER_TIME_MAX));
        let answer = self
            .query(pooled, (ANSWER_TIME_MAX, limit), statement, parameters)
            .await;
        if answer.is_ok() {
            self.state().stored();
        }
        answer
    }

    /// Reads what confirms to a caller that an earlier call was stored. The statement commits like a write: a server
    /// that started again shows data that no standby has, so the result is certain only once this commit has
    /// returned.
    pub async fn read_confirmed(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PgFailure> {
        self.execute_idempotent(statement, parameters)
            .await
            .map_err(PgFailure::while_reading)
    }

    /// Runs a statement that may run twice. Sends it again after a deadlock, or when the connection turns out to be
    /// lost.
    pub async fn execute_idempotent(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PgFailure> {
        self.execute_idempotent_within(ANSWER_TIME_MAX, statement, parameters)
            .await
    }

    /// Runs an idempotent statement, with its own limit for the answer.
    pub async fn execute_idempotent_within(
        &mut self,
        time_max: Duration,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PgFailure> {
        self.wait_until_writable().await?;
        self.run_idempotent(time_max, statement, parameters).await
    }

    async fn run_idempotent(
        &mut self,
        time_max: Duration,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PgFailure> {
        self.repeated = false;
        let limit = (!self.class.reads_by_functions()).then(|| limit(time_max));
        let pooled = self.checkout().await?;
        let old = pooled.is_old();
        match self.query(pooled, (time_max, limit), statement, parameters).await {
            Err(PgFailure::Unknown(_)) if old => self.repeated = true,
            Err(PgFailure::Again(_)) => {}
            answer => return answer,
        }
        let pooled = self.checkout().await?;
        self.query(pooled, (time_max, limit), statement, parameters).await
    }

    /// Reports whether the latest idempotent statement was sent twice, so that it may have stored more than its
    /// answer shows.
    pub fn was_repeated(&self) -> bool {
        self.repeated
    }

    /// Runs a statement that only reads.
    pub async fn read(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, PgFailure> {
        let answer = self.run_idempotent(ANSWER_TIME_MAX, statement, parameters).await;
        answer.map_err(PgFailure::while_reading)
    }

    /// Sends several statements as one message, which may run twice. Sends it again when the connection turns out to
    /// be lost.
    pub async fn send_message(&mut self, statements: &str) -> Result<Vec<SimpleQueryMessage>, PgFailure> {
        self.wait_until_writable().await?;
        self.send_probe(statements).await
    }

    /// Sends an idempotent message, even while a writing statement hangs.
    pub async fn send_probe(&mut self, statements: &str) -> Result<Vec<SimpleQueryMessage>, PgFailure> {
        let pooled = self.checkout().await?;
        let old = pooled.is_old();
        match self.send_message_over(pooled, statements, ANSWER_TIME_MAX).await {
            Err(PgFailure::Unknown(_)) if old => {
                let pooled = self.checkout().await?;
                self.send_message_over(pooled, statements, ANSWER_TIME_MAX).await
            }
            answer => answer,
        }
    }

    /// Sends a message once, with its own limit for the answer.
    pub async fn send_message_once(
        &mut self,
        statements: &str,
        time_max: Duration,
    ) -> Result<Vec<SimpleQueryMessage>, PgFailure> {
        let pooled = self.checkout_for_write().await?;
        self.send_message_over(pooled, statements, time_max).await
    }

    /// Sends a message once, over a connection that was checked out before.
    pub async fn send_message_over(
        &mut self,
        mut pooled: PooledConnection,
        statements: &str,
        time_max: Duration,
    ) -> Result<Vec<SimpleQueryMessage>, PgFailure> {
        let mut answer = await_answer_within(time_max, pooled.begin().simple_query(statements)).await;
        if let Err(PgFailure::OtherServer(_)) = answer {
            let ended = await_answer_within(CHECK_TIME_MAX, pooled.begin().simple_query("rollback")).await;
            let begun = match ended {
                Ok(_) => begin_epoch::begin(pooled.begin(), Cause::OtherServer).await,
                Err(failure) => Err(failure),
            };
            let begun = begun.map_err(PgFailure::while_preparing);
            answer = match begun {
                Ok(_) => await_answer_within(time_max, pooled.begin().simple_query(statements)).await,
                Err(failure) => Err(failure),
            };
        }
        match answer {
            Ok(answer) => {
                self.worked(pooled);
                Ok(answer)
            }
            Err(failure @ PgFailure::ReadOnly(_)) => {
                self.state().failed(&failure);
                // Read-only callers can still use the connection, once the transaction of the message has ended.
                let ended =
                    await_answer_within(CHECK_TIME_MAX, pooled.begin().simple_query("rollback")).await;
                if ended.is_ok() {
                    pooled.only_reads();
                }
                Err(failure)
            }
            Err(failure) if failure.may_concern_one_call() => {
                // The rollback releases the locks that the message took.
                let ended =
                    await_answer_within(CHECK_TIME_MAX, pooled.begin().simple_query("rollback")).await;
                if ended.is_ok() {
                    pooled.answered();
                }
                self.state().failed(&failure);
                Err(failure)
            }
            // The message may have begun a transaction, so the connection is not used again.
            Err(failure) => {
                self.failed(pooled, &failure);
                Err(failure)
            }
        }
    }

    /// Checks out a connection for a message that writes.
    pub async fn checkout_for_write(&self) -> Result<PooledConnection, PgFailure> {
        self.wait_until_writable().await?;
        self.checkout().await
    }

    /// Waits for a short while, then fails, while a writing statement hangs. Classes that only read go on.
    async fn wait_until_writable(&self) -> Result<(), PgFailure> {
        if self.class.must_write() {
            self.state().wait_until_writable().await
        } else {
            Ok(())
        }
    }

    /// Checks out a connection. One that is in doubt, because another connection was found lost, is checked first.
    pub async fn checkout(&self) -> Result<PooledConnection, PgFailure> {
        loop {
            let pooled = self.pool.checkout(self.class).await?;
            if !pooled.is_doubted() {
                return Ok(pooled);
            }
            if let Some(pooled) = checked(pooled).await {
                return Ok(pooled);
            }
        }
    }

    async fn query(
        &mut self,
        mut pooled: PooledConnection,
        (time_max, limit): (Duration, Option<Duration>),
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PgFailure> {
        let first = query_with_limit(pooled.begin(), limit, statement, parameters);
        let mut answer = await_answer_within(time_max, first).await;
        if let Err(PgFailure::OtherServer(_)) = answer {
            let begun = begin_epoch::begin(pooled.begin(), Cause::OtherServer).await;
            // The statement itself did not run.
            answer = match begun.map_err(PgFailure::while_preparing) {
                Ok(_) => {
                    await_answer_within(
                        time_max,
                        query_with_limit(pooled.begin(), limit, statement, parameters),
                    )
                    .await
                }
                Err(failure) => Err(failure),
            };
        }
        match answer {
            Ok(answer) => {
                self.worked(pooled);
                Ok(answer)
            }
            Err(failure @ PgFailure::ReadOnly(_)) => {
                pooled.only_reads();
                self.state().failed(&failure);
                Err(failure)
            }
            Err(failure) if failure.leaves_connection_usable() => {
                pooled.answered();
                self.state().failed(&failure);
                Err(failure)
            }
            Err(failure) => {
                self.failed(pooled, &failure);
                Err(failure)
            }
        }
    }

    fn worked(&self, mut pooled: PooledConnection) {
        pooled.answered();
        drop(pooled);
        self.state().works();
    }

    /// Discards the connection.
    fn failed(&self, pooled: PooledConnection, failure: &PgFailure) {
        match failure {
            PgFailure::Hung(text) => {
                if self.class.must_write() {
                    self.state().hangs(text);
                } else {
                    self.state().failed(failure);
                }
                pooled.give_up();
                // The idle connections may lead to the same unresponsive server.
                self.pool.distrust_idle();
            }
            PgFailure::Unknown(_) if pooled.is_old() => {
                self.state().failed(failure);
                pooled.discard();
                self.pool.distrust_idle();
            }
            _ => {
                self.state().failed(failure);
                pooled.discard();
            }
        }
    }

    pub fn state(&self) -> &DatabaseState {
        self.pool.connector().state()
    }
}

/// Returns the server's limit for a statement whose caller waits for `time_max`.
fn limit(time_max: Duration) -> Duration {
    time_max * SERVER_TENTHS / 10
}

/// Runs a statement, with a limit on the server's side unless the statement has one of its own. The limit is set in a
/// transaction around the statement, because a session setting means nothing behind a pooler. All is sent at once;
/// the answer comes after the commit.
async fn query_with_limit(
    client: &Client,
    limit: Option<Duration>,
    statement: &str,
    parameters: Parameters<'_>,
) -> Result<Vec<Row>, PgFailure> {
    let Some(limit) = limit else {
        return Ok(client.query_typed(statement, parameters).await?);
    };
    let limit_ms = limit.as_millis();
    // The second limit ends the transaction of a node that freezes between two of the three.
    let begin = format!(
        "begin isolation level read committed; set local statement_timeout = {limit_ms}; \
         set local idle_in_transaction_session_timeout = {limit_ms}"
    );
    let sent = join3(
        client.batch_execute(&begin),
        client.query_typed(statement, parameters),
        client.batch_execute("commit"),
    );
    match sent.await {
        // The statement ran without its transaction, so it committed by itself.
        (Err(error), Ok(_), _) => Err(PgFailure::Unknown(PgFailure::of(&error).text().into())),
        (Err(error), Err(_), _) | (Ok(()), Err(error), _) | (Ok(()), Ok(_), Err(error)) => Err(error.into()),
        (Ok(()), Ok(answer), Ok(())) => Ok(answer),
    }
}

/// Checks that a connection answers, and returns it; `None` when it does not.
async fn checked(mut pooled: PooledConnection) -> Option<PooledConnection> {
    let check = timeout(CHECK_TIME_MAX, pooled.begin().check_connection());
    if !matches!(check.await, Ok(Ok(()))) {
        pooled.discard();
        return None;
    }
    pooled.answered();
    Some(pooled)
}
