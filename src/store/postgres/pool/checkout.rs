//! Checkouts of the pool: a connection for one statement, or a reservation for a connection opened outside the pool.
//! A checkout ends however its use ends; the connection is not returned while a statement is unanswered. Nothing is
//! cancelled: a cancelled commit that waits for a standby would become visible before any standby has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;

use super::super::await_answer::{ANSWER_TIME_MAX, no_answer_text};
use super::super::classes::Class;
use super::super::connect::{Connection, TRUSTED_IDLE_MAX};
use super::super::server_info::ServerRun;
use super::Pool;

/// The longest time that a connection stays open for the answer to an abandoned statement. Until then it counts, so
/// that the node opens no other in its place. The limits of statements end all but those that wait at their commit.
const ABANDONED_TIME_MAX: Duration = Duration::from_mins(1);

/// A checked-out connection. Returns to the pool when it is dropped.
pub struct PooledConnection {
    /// The pool; `None` once the pool has taken the connection back itself.
    pool: Option<Arc<Pool>>,
    class: Class,
    connection: Option<Connection>,
    /// A statement is under way. The next statement would take its answer for its own.
    under_way: bool,
    /// The time when the latest statement began.
    began: Instant,
    /// The store's state knows that the statement hangs.
    hang_reported: bool,
}

impl PooledConnection {
    pub(super) fn new(pool: Arc<Pool>, class: Class, connection: Connection) -> PooledConnection {
        PooledConnection {
            pool: Some(pool),
            class,
            connection: Some(connection),
            under_way: false,
            began: Instant::now(),
            hang_reported: false,
        }
    }

    /// Reports whether the connection may have been lost: it was used before, or was idle for long.
    pub fn is_old(&self) -> bool {
        self.connection().is_old || !self.is_trusted()
    }

    pub fn server(&self) -> ServerRun {
        self.connection().server.clone()
    }

    /// Reports whether the connection was opened or used recently enough to count as open.
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

    /// Begins a statement. Until [`PooledConnection::answered`] the connection does not return to the pool.
    pub fn begin(&mut self) -> &Client {
        self.under_way = true;
        self.began = Instant::now();
        self.client()
    }

    /// Notes that the statement was answered: the connection may be used again.
    pub fn answered(&mut self) {
        self.under_way = false;
        if let Some(connection) = &mut self.connection {
            let now = Instant::now();
            connection.is_old = true;
            connection.used = now;
            connection.trusted_until = Some(now + TRUSTED_IDLE_MAX);
        }
    }

    /// Ends the checkout of a connection whose statement hangs. The store's state already knows.
    pub fn give_up(mut self) {
        self.hang_reported = true;
    }

    /// Notes that the server takes no writes over the connection.
    pub fn only_reads(&mut self) {
        self.answered();
        if let Some(connection) = &mut self.connection {
            connection.only_reads = true;
        }
    }

    /// Ends the checkout and closes the connection, which has nothing under way.
    pub fn discard(mut self) {
        self.connection = None;
    }

    /// Takes the connection back while the pool's lock is held.
    pub(super) fn into_connection(mut self) -> Option<Connection> {
        self.pool = None;
        self.connection.take()
    }

    fn connection(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("the connection is taken only when the checkout ends")
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take() else { return };
        match self.connection.take() {
            Some(connection) if self.under_way => {
                pool.begin_abandoning(self.class);
                let statement = AbandonedStatement {
                    class: self.class,
                    began: self.began,
                    hang_reported: self.hang_reported,
                    connection,
                };
                statement.keep(pool);
            }
            connection => pool.give_back(self.class, connection),
        }
    }
}

impl Pool {
    /// Ends a checkout whose statement is unanswered; the connection is closed after the answer. A reading connection
    /// counts for its class until then. Otherwise callers that come and go would take all connections.
    fn begin_abandoning(self: &Arc<Pool>, class: Class) {
        if class.must_write() {
            self.state().closing += 1;
            self.give_back(class, None);
        } else {
            self.state().abandoned += 1;
            self.came_back.notify_waiters();
        }
    }

    /// Notes that the connection of an abandoned statement is closed.
    fn end_abandoning(self: &Arc<Pool>, class: Class) {
        if class.must_write() {
            let mut state = self.state();
            state.closing -= 1;
            self.serve(&mut state);
        } else {
            self.state().abandoned -= 1;
            self.give_back(class, None);
        }
    }
}

/// An unanswered statement whose caller is gone, and its connection.
struct AbandonedStatement {
    class: Class,
    began: Instant,
    hang_reported: bool,
    connection: Connection,
}

impl AbandonedStatement {
    /// Keeps the connection open until the server has answered, or has had enough time to.
    fn keep(self, pool: Arc<Pool>) {
        // There is no runtime at the end of the process.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            self.wait_for_answer(&pool).await;
            let class = self.class;
            drop(self);
            pool.end_abandoning(class);
        });
    }

    async fn wait_for_answer(&self, pool: &Pool) {
        let client = &self.connection.client;
        // The server answers this after the statement.
        let empty = client.simple_query("");
        tokio::pin!(empty);
        if client.is_closed() || timeout_at(self.began + ANSWER_TIME_MAX, &mut empty).await.is_ok() {
            return;
        }
        // The server's limit has ended statements that only read.
        if !self.class.must_write() {
            return;
        }
        // The caller left before it knew that the statement hangs.
        if !self.hang_reported {
            pool.connector.state().hangs(&no_answer_text(ANSWER_TIME_MAX));
        }
        let _ = timeout_at(self.began + ABANDONED_TIME_MAX, empty).await;
    }
}

/// Counts as a connection of its class until it is dropped.
pub struct Reservation {
    pool: Arc<Pool>,
    class: Class,
}

impl Reservation {
    pub(super) fn new(pool: Arc<Pool>, class: Class) -> Reservation {
        Reservation { pool, class }
    }

    /// Resolves when a more urgent class needs the connection.
    pub async fn needed(&self) {
        loop {
            let limit_changed = self.pool.limit_changed.notified();
            tokio::pin!(limit_changed);
            limit_changed.as_mut().enable();
            if !self.pool.may_keep(self.class) {
                return;
            }
            limit_changed.await;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pool.give_back(self.class, None);
    }
}
