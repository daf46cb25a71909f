//! A few connections that read beside the writer, lent to one query at a time: some for lists, others for what waits
//! for no list.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::connection::open_reader;
use super::failure::{Failure, State};
use crate::store::StoreError;

/// The connections for lists, histories and explanations, which may be slow.
const LIST_READERS: usize = 4;
/// The connections for the state of the queue and the feed, which wait for no list.
const CONTROL_READERS: usize = 2;
/// Queries that run or wait for a connection; more are refused.
const QUERIES_MAX: usize = 4_096;

pub(super) struct Readers {
    lists: Arc<Lane>,
    control: Arc<Lane>,
}

impl Readers {
    pub fn open(path: &Path, state: &Arc<State>) -> Result<Readers, rusqlite::Error> {
        let lane = |readers| Lane::open(path, readers, state.clone()).map(Arc::new);
        Ok(Readers {
            lists: lane(LIST_READERS)?,
            control: lane(CONTROL_READERS)?,
        })
    }

    /// Runs a query in one read transaction.
    pub async fn read<T: Send + 'static>(
        &self,
        attempted: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.lists.read(attempted, query).await
    }

    /// Runs a short query likewise, without waiting for lists, histories or explanations.
    pub async fn control<T: Send + 'static>(
        &self,
        attempted: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.control.read(attempted, query).await
    }

    pub fn is_closed(&self) -> bool {
        self.lists.is_closed()
    }

    /// Refuses further queries and closes the connections once they are back.
    pub async fn close(&self) {
        self.lists.close().await;
        self.control.close().await;
    }
}

/// Connections for one kind of queries.
struct Lane {
    readers: usize,
    free: Mutex<Vec<Connection>>,
    /// One permit per connection.
    connections: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    state: Arc<State>,
}

impl Lane {
    fn open(path: &Path, readers: usize, state: Arc<State>) -> Result<Lane, rusqlite::Error> {
        let free = (0..readers)
            .map(|_| open_reader(path))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Lane {
            readers,
            free: Mutex::new(free),
            connections: Arc::new(Semaphore::new(readers)),
            queries: Arc::new(Semaphore::new(QUERIES_MAX)),
            state,
        })
    }

    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        attempted: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.is_closed() {
            return Err(StoreError::Closed);
        }
        let counted = self
            .queries
            .clone()
            .try_acquire_owned()
            .map_err(|_| StoreError::Busy)?;
        let turn = self.connections.clone().acquire_owned();
        let turn = turn.await.map_err(|_| StoreError::Closed)?;
        let readers = self.clone();
        // The permits go with the query: it runs to its end also when nobody waits for it any more.
        let answer = tokio::task::spawn_blocking(move || {
            let _permits = (turn, counted);
            let lent = Lent::take(&readers);
            lent.in_one_snapshot(query)
        })
        .await;
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let failure = Failure::of(&error);
                // A full disk does not stop readers, so it is not news from here.
                if let Failure::Broken(_) = failure {
                    self.state.failed(&failure);
                }
                Err(failure.to_error(attempted))
            }
            Err(panicked) => Err(StoreError::Unexpected {
                attempted,
                source: panicked.into(),
            }),
        }
    }

    fn is_closed(&self) -> bool {
        self.connections.is_closed()
    }

    async fn close(&self) {
        // All permits together mean that every connection is back; a closed semaphore, that they were taken before.
        let all = u32::try_from(self.readers).expect("there are few readers");
        if let Ok(permits) = self.connections.acquire_many(all).await {
            self.connections.close();
            drop(permits);
            self.free().clear();
        }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.free.lock().expect("no code panics while it holds this lock")
    }
}

/// A connection on loan: goes back however the query ends.
struct Lent<'r> {
    readers: &'r Lane,
    connection: Option<Connection>,
}

impl<'r> Lent<'r> {
    fn take(readers: &'r Lane) -> Lent<'r> {
        let connection = readers.free().pop();
        Lent { readers, connection }
    }

    fn in_one_snapshot<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, rusqlite::Error> {
        let connection = self
            .connection
            .as_ref()
            .expect("there is a connection for every permit");
        let transaction = connection.unchecked_transaction()?;
        let value = query(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.readers.free().extend(self.connection.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::connection::open_writer;
    use super::*;

    /// A query runs to its end also when its caller is gone, so its connection must not count as free before.
    #[tokio::test]
    async fn callers_that_go_away_disturb_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let _writer = open_writer(&path).unwrap();
        let readers = Arc::new(Readers::open(&path, &Arc::new(State::new())).unwrap());
        let (ends, waits): (Vec<_>, Vec<_>) = (0..LIST_READERS).map(|_| mpsc::channel::<()>()).unzip();
        for wait in waits {
            let (begun, started) = tokio::sync::oneshot::channel();
            let readers = readers.clone();
            let caller = tokio::spawn(async move {
                let query = move |_: &Connection| {
                    begun.send(()).unwrap();
                    Ok(wait.recv().is_err())
                };
                readers.read("wait", query).await
            });
            started.await.unwrap();
            caller.abort();
            assert!(caller.await.unwrap_err().is_cancelled());
        }
        // Issue 13, point 28.
        let beside = readers.control("read beside", |connection| {
            connection.query_row("select 2", [], |row| row.get::<_, i64>(0))
        });
        assert_eq!(beside.await.unwrap(), 2, "no list keeps it waiting");
        let next = readers.read("read", |connection| {
            connection.query_row("select 1", [], |row| row.get::<_, i64>(0))
        });
        tokio::pin!(next);
        assert!(
            futures_util::poll!(&mut next).is_pending(),
            "every connection is still out"
        );
        drop(ends);
        assert_eq!(next.await.unwrap(), 1);
    }
}
