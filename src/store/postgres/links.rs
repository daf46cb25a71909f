//! A few connections for everything that is neither accepted, claimed nor settled; each opened when it is needed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_postgres::{Row, SimpleQueryMessage};

use super::connect::{Connector, Parameters};
use super::failure::Failure;
use super::link::Link;

/// Statements of this kind under way at once.
const LINKS: usize = 6;
/// For a free connection, when all are in use.
const WAIT_MAX: Duration = Duration::from_secs(5);

pub(super) struct Links {
    /// Those not lent out, the one used last at the end: it is taken first, so that few stay in use.
    free: Arc<Mutex<Vec<Link>>>,
    permits: Arc<Semaphore>,
}

impl Links {
    pub fn new(connector: &Arc<Connector>) -> Links {
        let free = (0..LINKS).map(|_| Link::new(connector.clone())).collect();
        Links {
            free: Arc::new(Mutex::new(free)),
            permits: Arc::new(Semaphore::new(LINKS)),
        }
    }

    /// See [`Link::once`].
    pub async fn once(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        let mut lent = self.lend().await?;
        lent.link().once(statement, parameters).await
    }

    /// See [`Link::repeatable`].
    pub async fn repeatable(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        let mut lent = self.lend().await?;
        lent.link().repeatable(statement, parameters).await
    }

    pub async fn read(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        let mut lent = self.lend().await?;
        lent.link().read(statement, parameters).await
    }

    pub async fn flight(&self, statements: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        let mut lent = self.lend().await?;
        lent.link().flight(statements).await
    }

    /// Refuses further statements and waits for those under way.
    pub async fn close(&self) {
        let all = u32::try_from(LINKS).expect("there are few links");
        if let Ok(permits) = self.permits.acquire_many(all).await {
            self.permits.close();
            drop(permits);
            self.free
                .lock()
                .expect("no code panics while it holds this lock")
                .clear();
        }
    }

    /// One of them for several statements, one after the other.
    pub async fn lend(&self) -> Result<Lent, Failure> {
        let permit = match timeout(WAIT_MAX, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(Failure::Closed),
            Err(_) => {
                let text = format!("all {LINKS} connections were in use for {WAIT_MAX:?}");
                return Err(Failure::Unavailable(text.into()));
            }
        };
        let link = self
            .free
            .lock()
            .expect("no code panics while it holds this lock")
            .pop();
        Ok(Lent {
            link,
            free: self.free.clone(),
            _permit: permit,
        })
    }
}

/// A connection on loan: its link goes back however its use ends, without the connection when a statement was left
/// unanswered.
pub(super) struct Lent {
    link: Option<Link>,
    free: Arc<Mutex<Vec<Link>>>,
    /// Given back after the link.
    _permit: OwnedSemaphorePermit,
}

impl Lent {
    pub fn link(&mut self) -> &mut Link {
        self.link.as_mut().expect("there is a link for every permit")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.free
            .lock()
            .expect("no code panics while it holds this lock")
            .extend(self.link.take());
    }
}
