//! The pool's loans: a connection for one statement, or a place for a connection opened outside the pool. A loan goes
//! back however its use ends, without the connection when a statement was left unanswered: that one is cancelled unless it ends soon.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::super::classes::Class;
use super::super::connect::{Connection, ServerRun, TRUSTED_UNUSED};
use super::Pool;

pub struct Lent {
    /// The lender; `None` once the pool ended the loan itself.
    pool: Option<Arc<Pool>>,
    class: Class,
    connection: Option<Connection>,
    /// A statement is under way: its answer would be taken for the next one's.
    under_way: bool,
}

impl Lent {
    pub(super) fn new(pool: Arc<Pool>, class: Class, connection: Connection) -> Lent {
        Lent {
            pool: Some(pool),
            class,
            connection: Some(connection),
            under_way: false,
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
                pool.begin_leaving();
                pool.take_back(self.class, None);
                cancel(pool, connection);
            }
            connection => pool.take_back(self.class, connection),
        }
    }
}

/// Waits for the statement to end, or asks the server to stop it. No caller waits for that: the request may hang as well.
fn cancel(pool: Arc<Pool>, connection: Connection) {
    // None at the end of the process.
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        if !connection.client.is_closed() {
            pool.connector.cancel(&connection.client).await;
        }
        drop(connection);
        pool.left();
    });
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
