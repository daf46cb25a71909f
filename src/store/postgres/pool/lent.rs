//! The pool's loans: a connection for one statement, or a place for a connection opened outside the pool. A loan goes
//! back however its use ends, without the connection when a statement was left unanswered. Nothing is cancelled: a commit that
//! waits for a standby would be shown to everybody before any standby has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;

use super::super::answered::{ANSWER_TIME_MAX, hung_text};
use super::super::classes::Class;
use super::super::connect::{Connection, TRUSTED_UNUSED};
use super::super::look::ServerRun;
use super::Pool;

/// The longest time that a connection is kept for the answer to a statement that no caller awaits any more, so that the
/// node opens no other one in its place. The limits of the statements end all but those that wait at their commits.
const KEPT_TIME_MAX: Duration = Duration::from_mins(1);

pub struct Lent {
    /// The lender; `None` once the pool ended the loan itself.
    pool: Option<Arc<Pool>>,
    class: Class,
    connection: Option<Connection>,
    /// A statement is under way: its answer would be taken for the next one's.
    under_way: bool,
    /// The time when the latest statement began.
    began: Instant,
    /// The state knows that it hangs.
    told: bool,
}

impl Lent {
    pub(super) fn new(pool: Arc<Pool>, class: Class, connection: Connection) -> Lent {
        Lent {
            pool: Some(pool),
            class,
            connection: Some(connection),
            under_way: false,
            began: Instant::now(),
            told: false,
        }
    }

    /// Reports whether the connection was used before or has lain unused for long, so that it may have been lost since.
    pub fn is_old(&self) -> bool {
        self.connection().is_old || !self.is_trusted()
    }

    pub fn server(&self) -> ServerRun {
        self.connection().server.clone()
    }

    /// Reports whether the connection was opened or used so lately that it counts as open.
    pub fn is_trusted(&self) -> bool {
        let until = self.connection().trusted_until;
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Reports whether another connection was found lost since this one was opened or used.
    pub fn is_doubted(&self) -> bool {
        self.connection().trusted_until.is_none()
    }

    pub fn client(&self) -> &Client {
        &self.connection().client
    }

    /// Begins a statement. The connection does not go back before [`Lent::answered`].
    pub fn begin(&mut self) -> &Client {
        self.under_way = true;
        self.began = Instant::now();
        self.client()
    }

    /// Notes that the statement was answered: the connection may be used on.
    pub fn answered(&mut self) {
        self.under_way = false;
        if let Some(connection) = &mut self.connection {
            let now = Instant::now();
            connection.is_old = true;
            connection.used = now;
            connection.trusted_until = Some(now + TRUSTED_UNUSED);
        }
    }

    /// Ends the loan of a connection whose statement hangs, as the state knows.
    pub fn give_up(mut self) {
        self.told = true;
    }

    /// Notes that the server refused to write over the connection.
    pub fn only_reads(&mut self) {
        self.answered();
        if let Some(connection) = &mut self.connection {
            connection.only_reads = true;
        }
    }

    /// Ends the loan of a connection that is not to be used on and has nothing under way.
    pub fn discard(mut self) {
        self.connection = None;
    }

    /// Ends the loan under the pool's own lock.
    pub(super) fn take_back(mut self) -> Option<Connection> {
        self.pool = None;
        self.connection.take()
    }

    fn connection(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("it is taken only where the loan ends")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take() else { return };
        match self.connection.take() {
            Some(connection) if self.under_way => {
                pool.begin_leaving(self.class);
                let unanswered = Unanswered {
                    class: self.class,
                    began: self.began,
                    told: self.told,
                    connection,
                };
                unanswered.keep(pool);
            }
            connection => pool.take_back(self.class, connection),
        }
    }
}

impl Pool {
    /// Takes back a connection that is to be closed once its statement is answered. One that reads counts for its class until
    /// then: callers that come and go would have all connections otherwise.
    fn begin_leaving(self: &Arc<Pool>, class: Class) {
        if class.must_write() {
            self.stock().leaving += 1;
            self.take_back(class, None);
        } else {
            self.stock().abandoned += 1;
            self.came_back.notify_waiters();
        }
    }

    fn left(self: &Arc<Pool>, class: Class) {
        if class.must_write() {
            let mut stock = self.stock();
            stock.leaving -= 1;
            self.serve(&mut stock);
        } else {
            self.stock().abandoned -= 1;
            self.take_back(class, None);
        }
    }
}

/// A connection with a statement that no caller awaits any more.
struct Unanswered {
    class: Class,
    began: Instant,
    told: bool,
    connection: Connection,
}

impl Unanswered {
    /// Keeps the connection until the server has answered, or has had long enough for that.
    fn keep(self, pool: Arc<Pool>) {
        // None at the end of the process.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            self.answered(&pool).await;
            let class = self.class;
            drop(self);
            pool.left(class);
        });
    }

    async fn answered(&self, pool: &Pool) {
        let client = &self.connection.client;
        // Answered after the statement.
        let nothing = client.simple_query("");
        tokio::pin!(nothing);
        if client.is_closed()
            || timeout_at(self.began + ANSWER_TIME_MAX, &mut nothing)
                .await
                .is_ok()
        {
            return;
        }
        // The server's limit has ended what only reads.
        if !self.class.must_write() {
            return;
        }
        // Its caller left before that was known.
        if !self.told {
            pool.connector.state().hangs(&hung_text(ANSWER_TIME_MAX));
        }
        let _ = timeout_at(self.began + KEPT_TIME_MAX, nothing).await;
    }
}

/// Counts as a connection of its class until it is dropped.
pub struct Place {
    pool: Arc<Pool>,
    class: Class,
}

impl Place {
    pub(super) fn new(pool: Arc<Pool>, class: Class) -> Place {
        Place { pool, class }
    }

    /// Resolves when the place is needed for something more urgent.
    pub async fn needed(&self) {
        loop {
            let allowance = self.pool.allowance.notified();
            tokio::pin!(allowance);
            allowance.as_mut().enable();
            if !self.pool.may_keep(self.class) {
                return;
            }
            allowance.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.take_back(self.class, None);
    }
}
