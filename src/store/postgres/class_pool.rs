//! The connection pool as one class of work sees it: several callers may use it at once.

use std::sync::Arc;

use tokio_postgres::{Row, SimpleQueryMessage};

use super::class_connection::ClassConnection;
use super::classes::Class;
use super::connect::Parameters;
use super::failure::PgFailure;
use super::pool::Pool;

/// Runs statements that read: over the pool, or over the connection of a snapshot.
pub(super) trait ReadSource: Sync {
    fn read(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> impl Future<Output = Result<Vec<Row>, PgFailure>> + Send;
}

/// A handle of the pool for one class.
#[derive(Clone)]
pub(super) struct ClassPool {
    pool: Arc<Pool>,
    class: Class,
}

impl ClassPool {
    pub fn new(pool: &Arc<Pool>, class: Class) -> ClassPool {
        ClassPool {
            pool: pool.clone(),
            class,
        }
    }

    /// See [`ClassConnection::execute_once`].
    pub async fn execute_once(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PgFailure> {
        self.connection().execute_once(statement, parameters).await
    }

    /// See [`ClassConnection::execute_idempotent`].
    pub async fn execute_idempotent(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PgFailure> {
        self.connection().execute_idempotent(statement, parameters).await
    }

    pub async fn read(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, PgFailure> {
        self.connection().read(statement, parameters).await
    }

    /// See [`ClassConnection::read_confirmed`].
    pub async fn read_confirmed(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, PgFailure> {
        self.connection().read_confirmed(statement, parameters).await
    }

    /// Commits a marker. Once it returns, everything read before is as durable as an acknowledged write; see
    /// [`ClassConnection::read_confirmed`].
    pub async fn confirm_reads(&self) -> Result<(), PgFailure> {
        let statement = "select pg_logical_emit_message(true, 'orderly', 'confirmed')";
        self.read_confirmed(statement, &[]).await.map(drop)
    }

    /// See [`ClassConnection::send_probe`].
    pub async fn send_probe(&self, statements: &str) -> Result<Vec<SimpleQueryMessage>, PgFailure> {
        self.connection().send_probe(statements).await
    }

    pub async fn send_message(&self, statements: &str) -> Result<Vec<SimpleQueryMessage>, PgFailure> {
        self.connection().send_message(statements).await
    }

    /// Returns a connection for several statements, one after another.
    pub fn connection(&self) -> ClassConnection {
        ClassConnection::new(self.pool.clone(), self.class)
    }
}

impl ReadSource for ClassPool {
    async fn read(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, PgFailure> {
        ClassPool::read(self, statement, parameters).await
    }
}
