//! A way to the database for one kind of work: what is said over it goes over a connection of the pool's, lent for each
//! statement, looked at before it is trusted, given up when it hangs, and never cancelled. Nothing is stored while a statement
//! that stores hangs. What is said is left to the modules beside this one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join3;
use tokio::time::timeout;
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::answered::{ANSWER_TIME_MAX, answered_within};
use super::begin_epoch::{self, Cause};
use super::classes::Class;
use super::connect::{LOOK_TIME_MAX, Parameters};
use super::failure::Failure;
use super::pool::{Lent, Pool};
use super::state::State;

/// The server's part of the time for an answer, in tenths: it gives a statement up before its caller does.
const SERVER_TENTHS: u32 = 9;

pub(super) struct Link {
    pool: Arc<Pool>,
    class: Class,
    /// The latest repeatable statement was sent once more after its answer was lost.
    repeated: bool,
}

impl Link {
    pub fn new(pool: Arc<Pool>, class: Class) -> Link {
        Link {
            pool,
            class,
            repeated: false,
        }
    }

    /// Carries out one statement, which is one transaction and not to be carried out twice: a connection that was not
    /// used for a while is looked at first.
    pub async fn once(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        self.may_store().await?;
        let lent = loop {
            let lent = self.lend().await?;
            if lent.is_trusted() {
                break lent;
            }
            if let Some(lent) = looked_at(lent).await {
                break lent;
            }
        };
        let limit = (!self.class.stores_by_functions()).then(|| limit(ANSWER_TIME_MAX));
        let answer = self
            .query(lent, (ANSWER_TIME_MAX, limit), statement, parameters)
            .await;
        if answer.is_ok() {
            self.state().stored();
        }
        answer
    }

    /// Reads what confirms to a caller that it stored something before. The statement commits as one that stores does: a
    /// server that started again shows what no standby had, so what is read is only certain once that commit came back.
    pub async fn confirm(
        &mut self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        self.repeatable(statement, parameters)
            .await
            .map_err(Failure::of_reading)
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
        self.may_store().await?;
        self.twice_within(time_max, statement, parameters).await
    }

    async fn twice_within(
        &mut self,
        time_max: Duration,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        self.repeated = false;
        let limit = (!self.class.reads_by_functions()).then(|| limit(time_max));
        let lent = self.lend().await?;
        let old = lent.is_old();
        match self.query(lent, (time_max, limit), statement, parameters).await {
            Err(Failure::Unknown(_)) if old => self.repeated = true,
            Err(Failure::Again(_)) => {}
            answer => return answer,
        }
        let lent = self.lend().await?;
        self.query(lent, (time_max, limit), statement, parameters).await
    }

    /// Whether the latest repeatable statement may have stored what its answer does not tell of.
    pub fn was_repeated(&self) -> bool {
        self.repeated
    }

    /// The same for one that only reads.
    pub async fn read(&mut self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        let answer = self.twice_within(ANSWER_TIME_MAX, statement, parameters).await;
        answer.map_err(Failure::of_reading)
    }

    /// Carries out a text of several statements, sent as one message; it does no harm when it is carried out twice.
    pub async fn flight(&mut self, statements: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        self.may_store().await?;
        self.probe(statements).await
    }

    /// Does what `flight` does, also while a statement that stores hangs.
    pub async fn probe(&mut self, statements: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        let lent = self.lend().await?;
        let old = lent.is_old();
        match self.fly_over(lent, statements, ANSWER_TIME_MAX).await {
            Err(Failure::Unknown(_)) if old => {
                let lent = self.lend().await?;
                self.fly_over(lent, statements, ANSWER_TIME_MAX).await
            }
            answer => answer,
        }
    }

    /// The same, not repeated, and with a time of its own.
    pub async fn fly(
        &mut self,
        statements: &str,
        time_max: Duration,
    ) -> Result<Vec<SimpleQueryMessage>, Failure> {
        let lent = self.lend_to_store().await?;
        self.fly_over(lent, statements, time_max).await
    }

    /// Does what `fly` does, over a connection that was lent before.
    pub async fn fly_over(
        &mut self,
        mut lent: Lent,
        statements: &str,
        time_max: Duration,
    ) -> Result<Vec<SimpleQueryMessage>, Failure> {
        let mut answer = answered_within(time_max, lent.begin().simple_query(statements)).await;
        if let Err(Failure::OtherServer(_)) = answer {
            let ended = answered_within(LOOK_TIME_MAX, lent.begin().simple_query("rollback")).await;
            let begun = match ended {
                Ok(_) => begin_epoch::begin(lent.begin(), Cause::OtherServer).await,
                Err(failure) => Err(failure),
            };
            let begun = begun.map_err(Failure::of_preparing);
            answer = match begun {
                Ok(_) => answered_within(time_max, lent.begin().simple_query(statements)).await,
                Err(failure) => Err(failure),
            };
        }
        match answer {
            Ok(answer) => {
                self.worked(lent);
                Ok(answer)
            }
            Err(failure @ Failure::ReadOnly(_)) => {
                self.state().failed(&failure);
                // It serves callers that only read, once the transaction that the text began is over.
                let ended = answered_within(LOOK_TIME_MAX, lent.begin().simple_query("rollback")).await;
                if ended.is_ok() {
                    lent.only_reads();
                }
                Err(failure)
            }
            Err(failure) if failure.may_be_of_one() => {
                // What follows finds no lock that the text took, and no transaction that it began.
                let ended = answered_within(LOOK_TIME_MAX, lent.begin().simple_query("rollback")).await;
                if ended.is_ok() {
                    lent.answered();
                }
                self.state().failed(&failure);
                Err(failure)
            }
            // The text may have begun a transaction: the connection is not used on.
            Err(failure) => {
                self.failed(lent, &failure);
                Err(failure)
            }
        }
    }

    /// Lends a connection for a text that stores.
    pub async fn lend_to_store(&self) -> Result<Lent, Failure> {
        self.may_store().await?;
        self.lend().await
    }

    /// Fails while a statement that stores hangs, unless the class only reads.
    async fn may_store(&self) -> Result<(), Failure> {
        if self.class.must_write() {
            self.state().may_store().await
        } else {
            Ok(())
        }
    }

    /// A connection of the pool's. One that another one's end casts doubt on is looked at before.
    pub async fn lend(&self) -> Result<Lent, Failure> {
        loop {
            let lent = self.pool.lend(self.class).await?;
            if !lent.is_doubted() {
                return Ok(lent);
            }
            if let Some(lent) = looked_at(lent).await {
                return Ok(lent);
            }
        }
    }

    async fn query(
        &mut self,
        mut lent: Lent,
        (time_max, limit): (Duration, Option<Duration>),
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let asked_first = asked(lent.begin(), limit, statement, parameters);
        let mut answer = answered_within(time_max, asked_first).await;
        if let Err(Failure::OtherServer(_)) = answer {
            let begun = begin_epoch::begin(lent.begin(), Cause::OtherServer).await;
            // Nothing of the statement itself was carried out.
            answer = match begun.map_err(Failure::of_preparing) {
                Ok(_) => answered_within(time_max, asked(lent.begin(), limit, statement, parameters)).await,
                Err(failure) => Err(failure),
            };
        }
        match answer {
            Ok(answer) => {
                self.worked(lent);
                Ok(answer)
            }
            Err(failure @ Failure::ReadOnly(_)) => {
                lent.only_reads();
                self.state().failed(&failure);
                Err(failure)
            }
            Err(failure) if failure.leaves_connection_usable() => {
                lent.answered();
                self.state().failed(&failure);
                Err(failure)
            }
            Err(failure) => {
                self.failed(lent, &failure);
                Err(failure)
            }
        }
    }

    fn worked(&self, mut lent: Lent) {
        lent.answered();
        drop(lent);
        self.state().works();
    }

    /// The connection is not used on.
    fn failed(&self, lent: Lent, failure: &Failure) {
        match failure {
            Failure::Hung(text) => {
                if self.class.must_write() {
                    self.state().hangs(text);
                } else {
                    self.state().failed(failure);
                }
                lent.give_up();
                // The others may lead to where nothing answers either.
                self.pool.distrust();
            }
            Failure::Unknown(_) if lent.is_old() => {
                self.state().failed(failure);
                lent.discard();
                self.pool.distrust();
            }
            _ => {
                self.state().failed(failure);
                lent.discard();
            }
        }
    }

    pub fn state(&self) -> &State {
        self.pool.connector().state()
    }
}

/// The server's limit for a statement whose caller waits for so long.
fn limit(time_max: Duration) -> Duration {
    time_max * SERVER_TENTHS / 10
}

/// Asks, with a limit of the server's own where the statement has none in it. A transaction around the statement carries it,
/// since sessions mean nothing behind a pooler; all is sent at once, and answered when it is committed.
async fn asked(
    client: &Client,
    limit: Option<Duration>,
    statement: &str,
    parameters: Parameters<'_>,
) -> Result<Vec<Row>, Failure> {
    let Some(limit) = limit else {
        return Ok(client.query_typed(statement, parameters).await?);
    };
    let limit_ms = limit.as_millis();
    // A node that freezes between two of the three lets go as well.
    let begin = format!(
        "begin isolation level read committed; set local statement_timeout = {limit_ms}; \
         set local idle_in_transaction_session_timeout = {limit_ms}"
    );
    let asked = join3(
        client.batch_execute(&begin),
        client.query_typed(statement, parameters),
        client.batch_execute("commit"),
    );
    match asked.await {
        // Carried out without its transaction, so committed on its own.
        (Err(error), Ok(_), _) => Err(Failure::Unknown(Failure::of(&error).text().into())),
        (Err(error), Err(_), _) | (Ok(()), Err(error), _) | (Ok(()), Ok(_), Err(error)) => Err(error.into()),
        (Ok(()), Ok(answer), Ok(())) => Ok(answer),
    }
}

/// Checks a connection and returns it; `None` when it does not answer.
async fn looked_at(mut lent: Lent) -> Option<Lent> {
    let looked_at = timeout(LOOK_TIME_MAX, lent.begin().check_connection());
    if !matches!(looked_at.await, Ok(Ok(()))) {
        lent.discard();
        return None;
    }
    lent.answered();
    Some(lent)
}
