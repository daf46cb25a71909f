//! The pool of connections for reads. Each kind of read has its own queue and its own share of the connections, so a slow kind
//! delays no other.
//!
//! Point reads are grouped into one read transaction, because beginning a transaction and handing work to another thread cost
//! more than reading one row. The transaction begins after its reads were taken from the queue, so each read sees every write
//! that was answered before the read was requested.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::connection::open_reader;
use super::failure::{SqliteFailure, SqliteHealth};
use crate::store::StoreError;

/// Reads of one kind that may wait; beyond that they are refused.
const READS_WAITING_MAX: usize = 4_096;

/// The kind of a read. Each kind has its own queue and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadKind {
    /// Point reads: single rows by key.
    Point,
    /// Short reads that must not wait for a listing: the state of the queue, and pages of the feed.
    Control,
    /// Listings, histories and explanations, which may be slow.
    List,
}

/// Limits of one kind of read.
struct ReadLimits {
    connections: usize,
    /// Waiting reads per busy connection beyond which another connection starts. A shorter queue is done sooner without it.
    reads_per_connection: usize,
    /// Reads per transaction. The first waits for the last.
    reads_per_transaction_max: usize,
}

impl ReadKind {
    const ALL: [ReadKind; 3] = [ReadKind::Point, ReadKind::Control, ReadKind::List];

    const fn limits(self) -> ReadLimits {
        match self {
            // One connection suffices while it keeps up. If it does not, because of a slow disk for example, the second one
            // helps. A full transaction takes about 0.3 ms.
            ReadKind::Point => ReadLimits {
                connections: 2,
                reads_per_connection: 16,
                reads_per_transaction_max: 64,
            },
            ReadKind::Control => ReadLimits {
                connections: 2,
                reads_per_connection: 0,
                reads_per_transaction_max: 1,
            },
            ReadKind::List => ReadLimits {
                connections: 4,
                reads_per_connection: 0,
                reads_per_transaction_max: 1,
            },
        }
    }
}

/// Handle to the pool. Cheap to clone.
#[derive(Clone)]
pub(super) struct Readers {
    pool: Arc<Pool>,
}

struct Pool {
    state: Mutex<PoolState>,
    connections: usize,
    health: Arc<SqliteHealth>,
}

struct PoolState {
    /// One queue per kind, in the order of [`ReadKind::ALL`].
    queues: [ReadQueue; ReadKind::ALL.len()],
    /// Idle connections. The pool has enough for every kind to use its maximum.
    free: Vec<Connection>,
    closed: bool,
    /// Signalled when all connections are closed.
    close_waiters: Vec<oneshot::Sender<()>>,
}

/// Waiting reads of one kind.
#[derive(Default)]
struct ReadQueue {
    reads: VecDeque<Box<dyn Read>>,
    /// Connections that serve this queue. Each continues until the queue is empty.
    connections_in_use: usize,
}

/// A read that waits for a connection and keeps its result until its transaction has ended.
trait Read: Send {
    /// Runs the query, unless the caller is gone.
    fn carry_out(&mut self, connection: &Connection);
    fn answer(self: Box<Self>, failure: Option<&rusqlite::Error>, health: &SqliteHealth);
}

struct PendingRead<T, Q> {
    attempted: &'static str,
    query: Option<Q>,
    result: Option<Result<T, rusqlite::Error>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, Q> Read for PendingRead<T, Q>
where
    T: Send,
    Q: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send,
{
    fn carry_out(&mut self, connection: &Connection) {
        if !self.answer.is_closed() {
            self.result = self.query.take().map(|query| query(connection));
        }
    }

    fn answer(self: Box<Self>, failure: Option<&rusqlite::Error>, health: &SqliteHealth) {
        let failed = |error: &rusqlite::Error| {
            let failure = SqliteFailure::of(error);
            // Other failures of a read prove nothing about writes.
            if let SqliteFailure::Broken(_) = failure {
                health.failed(&failure);
            }
            Err(failure.to_error(self.attempted))
        };
        let result = match (failure, self.result) {
            (Some(error), _) => failed(error),
            (None, Some(Err(error))) => failed(&error),
            (None, Some(Ok(value))) => Ok(value),
            // The caller is gone.
            (None, None) => return,
        };
        // Fails only if the caller is gone.
        let _ = self.answer.send(result);
    }
}

impl Readers {
    pub fn open(path: &Path, health: Arc<SqliteHealth>) -> Result<Readers, rusqlite::Error> {
        let connections = ReadKind::ALL.iter().map(|kind| kind.limits().connections).sum();
        let free = (0..connections)
            .map(|_| open_reader(path))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Readers {
            pool: Arc::new(Pool {
                state: Mutex::new(PoolState {
                    queues: Default::default(),
                    free,
                    closed: false,
                    close_waiters: Vec::new(),
                }),
                connections,
                health,
            }),
        })
    }

    /// Runs the query in a read transaction. A query that has begun runs to its end even if its caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if too many reads of this kind wait, [`StoreError::Closed`] once the pool is closed, and failures of
    /// the query.
    pub async fn read<T: Send + 'static>(
        &self,
        kind: ReadKind,
        attempted: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let read = Box::new(PendingRead {
            attempted,
            query: Some(query),
            result: None,
            answer,
        });
        if let Some(connection) = self.pool.enqueue(kind, read)? {
            let pool = self.pool.clone();
            // Nobody awaits the job, because it answers the reads itself.
            drop(spawn_blocking(move || pool.run_until_idle(kind, connection)));
        }
        answered.await.unwrap_or_else(|_| {
            Err(StoreError::Unexpected {
                attempted,
                source: anyhow::Error::msg("this read, or another in its transaction, panicked"),
            })
        })
    }

    pub fn is_closed(&self) -> bool {
        self.pool.lock().closed
    }

    /// Finishes the waiting reads, refuses later ones and closes the connections.
    pub async fn close(&self) {
        if let Some(all_ended) = self.pool.close() {
            // Fails only if the pool is dropped.
            let _ = all_ended.await;
        }
    }
}

impl Pool {
    /// Queues the read. Returns a connection if another one should start serving the queue.
    fn enqueue(&self, kind: ReadKind, read: Box<dyn Read>) -> Result<Option<Connection>, StoreError> {
        let mut state = self.lock();
        if state.closed {
            return Err(StoreError::Closed);
        }
        let limits = kind.limits();
        let queue = &mut state.queues[kind as usize];
        if queue.reads.len() >= READS_WAITING_MAX {
            return Err(StoreError::Busy);
        }
        queue.reads.push_back(read);
        let needs_connection = queue.reads.len() > queue.connections_in_use * limits.reads_per_connection;
        if !needs_connection || queue.connections_in_use == limits.connections {
            return Ok(None);
        }
        queue.connections_in_use += 1;
        let connection = state.free.pop();
        Ok(Some(connection.expect(
            "the pool has enough connections for the maximum of every kind",
        )))
    }

    /// Serves the queue of this kind until it is empty.
    fn run_until_idle(&self, kind: ReadKind, connection: Connection) {
        let reads_per_transaction_max = kind.limits().reads_per_transaction_max;
        let mut reads = Vec::new();
        loop {
            let mut state = self.lock();
            let queue = &mut state.queues[kind as usize];
            if queue.reads.is_empty() {
                queue.connections_in_use -= 1;
                state.release(connection, self.connections);
                return;
            }
            let taken = queue.reads.len().min(reads_per_transaction_max);
            reads.extend(queue.reads.drain(..taken));
            drop(state);
            // If a read panics, dropping the reads of its transaction answers their callers.
            let carried_out = AssertUnwindSafe(|| run_in_one_transaction(&connection, &mut reads));
            if let Ok(ended) = catch_unwind(carried_out) {
                for read in reads.drain(..) {
                    read.answer(ended.as_ref().err(), &self.health);
                }
            }
            reads.clear();
        }
    }

    /// Closes the pool. Returns a signal for the moment when the last connection is closed; `None` if all are closed already.
    fn close(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        let is_busy = state.queues.iter().any(|queue| queue.connections_in_use > 0);
        state.closed = true;
        if !is_busy {
            state.free.clear();
            return None;
        }
        let (ended, all_ended) = oneshot::channel();
        state.close_waiters.push(ended);
        Some(all_ended)
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

impl PoolState {
    fn release(&mut self, connection: Connection, connections: usize) {
        self.free.push(connection);
        if self.closed && self.free.len() == connections {
            self.free.clear();
            for ended in self.close_waiters.drain(..) {
                // The caller may have stopped waiting.
                let _ = ended.send(());
            }
        }
    }
}

fn run_in_one_transaction(
    connection: &Connection,
    reads: &mut [Box<dyn Read>],
) -> Result<(), rusqlite::Error> {
    let transaction = connection.unchecked_transaction()?;
    for read in reads {
        read.carry_out(&transaction);
    }
    transaction.commit()
}

#[cfg(test)]
mod tests;
