//! The ways to the database for one kind of work that several callers use at once.

use std::sync::Arc;

use tokio_postgres::{Row, SimpleQueryMessage};

use super::classes::Class;
use super::connect::Parameters;
use super::failure::Failure;
use super::link::Link;
use super::pool::Pool;

/// Takes statements that read: the pool, or the connection of a snapshot.
pub(super) trait Reads: Sync {
    fn read(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> impl Future<Output = Result<Vec<Row>, Failure>> + Send;
}

#[derive(Clone)]
pub(super) struct Links {
    pool: Arc<Pool>,
    class: Class,
}

impl Links {
    pub fn new(pool: &Arc<Pool>, class: Class) -> Links {
        Links {
            pool: pool.clone(),
            class,
        }
    }

    /// See [`Link::once`].
    pub async fn once(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        self.link().once(statement, parameters).await
    }

    /// See [`Link::repeatable`].
    pub async fn repeatable(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        self.link().repeatable(statement, parameters).await
    }

    pub async fn read(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        self.link().read(statement, parameters).await
    }

    /// See [`Link::confirm`].
    pub async fn confirm(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        self.link().confirm(statement, parameters).await
    }

    /// Returns once everything that was read before is as safe as what is answered as stored: see [`Link::confirm`].
    pub async fn confirmed(&self) -> Result<(), Failure> {
        let statement = "select pg_logical_emit_message(true, 'orderly', 'confirmed')";
        self.confirm(statement, &[]).await.map(drop)
    }

    /// See [`Link::probe`].
    pub async fn probe(&self, statements: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        self.link().probe(statements).await
    }

    pub async fn flight(&self, statements: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        self.link().flight(statements).await
    }

    /// One of them for several statements, one after the other.
    pub fn link(&self) -> Link {
        Link::new(self.pool.clone(), self.class)
    }
}

impl Reads for Links {
    async fn read(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        Links::read(self, statement, parameters).await
    }
}
