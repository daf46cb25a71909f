//! A way to the database for one kind of work: what is said over it goes over a connection of the pool's, lent for each
//! statement, looked at before it is trusted, given up when it hangs. What is said is left to the modules beside this one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Row, SimpleQueryMessage};

use super::answered::{ANSWER_TIME_MAX, answered_within};
use super::classes::Class;
use super::connect::{LOOK_TIME_MAX, Parameters};
use super::failure::Failure;
use super::pool::{Lent, Pool};
use super::state::State;

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
        let lent = loop {
            let lent = self.lend().await?;
            if lent.is_trusted() {
                break lent;
            }
            if let Some(lent) = looked_at(lent).await {
                break lent;
            }
        };
        let answer = self.query(lent, ANSWER_TIME_MAX, statement, parameters).await;
        if answer.is_ok() {
            self.state().stored();
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
        self.repeated = false;
        let lent = self.lend().await?;
        let old = lent.is_old();
        match self.query(lent, time_max, statement, parameters).await {
            Err(Failure::Unknown(_)) if old => self.repeated = true,
            Err(Failure::Again(_)) => {}
            answer => return answer,
        }
        let lent = self.lend().await?;
        self.query(lent, time_max, statement, parameters).await
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
        let lent = self.lend().await?;
        let old = lent.is_old();
        match self.fly_over(lent, statements, ANSWER_TIME_MAX).await {
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
        let lent = self.lend().await?;
        self.fly_over(lent, statements, time_max).await
    }

    /// Does what `fly` does, over a connection that was lent before.
    pub async fn fly_over(
        &mut self,
        mut lent: Lent,
        statements: &str,
        time_max: Duration,
    ) -> Result<Vec<SimpleQueryMessage>, Failure> {
        let answer = answered_within(time_max, lent.begin().simple_query(statements)).await;
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
        time_max: Duration,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let asked = lent.begin().query_typed(statement, parameters);
        match answered_within(time_max, asked).await {
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
        self.state().failed(failure);
        match failure {
            // The others may lead to where nothing answers either.
            Failure::Hung(_) => {
                drop(lent);
                self.pool.distrust();
            }
            Failure::Unknown(_) if lent.is_old() => {
                lent.discard();
                self.pool.distrust();
            }
            _ => lent.discard(),
        }
    }

    pub fn state(&self) -> &State {
        self.pool.connector().state()
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
