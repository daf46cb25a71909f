//! The connections that read beside the writer: one pool for all reads. Reads of a kind wait in one line and share the
//! connections that this kind may use, so that a kind that is slow keeps no other waiting.
//!
//! Each group of reads is one read transaction, as each group of the writer's calls is one that writes: beginning a
//! transaction and handing a query to another thread cost more than the read of a single row. The transaction begins after
//! its reads were taken from the line, so each sees everything that was answered before it was asked.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::connection::open_reader;
use super::failure::{Failure, State};
use crate::store::StoreError;

/// Reads of one kind that may wait; more are refused.
const READS_WAITING_MAX: usize = 4_096;

/// The kind of a read, which decides on its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Single rows by their keys.
    Point,
    /// The state of the queue and pages of the feed: short, and wait for no list.
    Control,
    /// Lists, histories and explanations, which may be slow.
    List,
}

/// The share of a kind in the connections.
struct Share {
    connections: usize,
    /// Reads that wait for each connection at work when another one is to help: fewer are done sooner without it.
    reads_to_help_with: usize,
    /// Reads of one transaction, for which the first of them waits for the last.
    group_reads_max: usize,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Point, Kind::Control, Kind::List];

    const fn share(self) -> Share {
        match self {
            // One connection does for all while it keeps up; where it does not, held up by the disk, say, the other helps.
            // A full group takes some 0.3 ms.
            Kind::Point => Share {
                connections: 2,
                reads_to_help_with: 16,
                group_reads_max: 64,
            },
            Kind::Control => Share {
                connections: 2,
                reads_to_help_with: 0,
                group_reads_max: 1,
            },
            Kind::List => Share {
                connections: 4,
                reads_to_help_with: 0,
                group_reads_max: 1,
            },
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Readers {
    pool: Arc<Pool>,
}

struct Pool {
    waiting: Mutex<Waiting>,
    connections: usize,
    state: Arc<State>,
}

struct Waiting {
    /// One for each kind, in the order of [`Kind::ALL`].
    lines: [Line; Kind::ALL.len()],
    /// Connections that are not at work. There is one for whatever kind may use one more.
    free: Vec<Connection>,
    closed: bool,
    /// Told when all connections are closed.
    ended: Vec<oneshot::Sender<()>>,
}

/// Reads of one kind.
#[derive(Default)]
struct Line {
    reads: VecDeque<Box<dyn Read>>,
    /// Connections that read for it. One that does goes on until none of these reads waits.
    at_work: usize,
}

/// A read that waits for its turn and keeps its result until the transaction has ended.
trait Read: Send {
    /// Does nothing when the caller has left.
    fn carry_out(&mut self, connection: &Connection);
    fn answer(self: Box<Self>, failure: Option<&rusqlite::Error>, state: &State);
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

    fn answer(self: Box<Self>, failure: Option<&rusqlite::Error>, state: &State) {
        let failed = |error: &rusqlite::Error| {
            let failure = Failure::of(error);
            // A full disk does not stop readers, so it is not news from here.
            if let Failure::Broken(_) = failure {
                state.failed(&failure);
            }
            Err(failure.to_error(self.attempted))
        };
        let result = match (failure, self.result) {
            (Some(error), _) => failed(error),
            (None, Some(Err(error))) => failed(&error),
            (None, Some(Ok(value))) => Ok(value),
            // Its caller is gone.
            (None, None) => return,
        };
        // A caller that is gone wants no answer.
        let _ = self.answer.send(result);
    }
}

impl Readers {
    pub fn open(path: &Path, state: Arc<State>) -> Result<Readers, rusqlite::Error> {
        let connections = Kind::ALL.iter().map(|kind| kind.share().connections).sum();
        let free = (0..connections)
            .map(|_| open_reader(path))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Readers {
            pool: Arc::new(Pool {
                waiting: Mutex::new(Waiting {
                    lines: Default::default(),
                    free,
                    closed: false,
                    ended: Vec::new(),
                }),
                connections,
                state,
            }),
        })
    }

    /// Carries out the query in a read transaction. One that has begun goes on to its end also when its caller leaves.
    pub async fn read<T: Send + 'static>(
        &self,
        kind: Kind,
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
        if let Some(connection) = self.pool.enter(kind, read)? {
            let pool = self.pool.clone();
            // No caller waits for the job: it answers the reads themselves.
            drop(spawn_blocking(move || pool.work(kind, connection)));
        }
        answered.await.unwrap_or_else(|_| {
            Err(StoreError::Unexpected {
                attempted,
                source: anyhow::Error::msg("this read or one of its group panicked"),
            })
        })
    }

    pub fn is_closed(&self) -> bool {
        self.pool.waiting().closed
    }

    /// Carries out the reads that wait, refuses later ones and closes the connections.
    pub async fn close(&self) {
        if let Some(all_ended) = self.pool.close() {
            // An error means that the process lets go of everything.
            let _ = all_ended.await;
        }
    }
}

impl Pool {
    /// Answers a connection where one more is to go to work.
    fn enter(&self, kind: Kind, read: Box<dyn Read>) -> Result<Option<Connection>, StoreError> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(StoreError::Closed);
        }
        let share = kind.share();
        let line = &mut waiting.lines[kind as usize];
        if line.reads.len() >= READS_WAITING_MAX {
            return Err(StoreError::Busy);
        }
        line.reads.push_back(read);
        let helps = line.reads.len() > line.at_work * share.reads_to_help_with;
        if !helps || line.at_work == share.connections {
            return Ok(None);
        }
        line.at_work += 1;
        let connection = waiting.free.pop();
        Ok(Some(
            connection.expect("there are as many connections as all kinds may use"),
        ))
    }

    /// Reads until no read of the kind waits.
    fn work(&self, kind: Kind, connection: Connection) {
        let group_reads_max = kind.share().group_reads_max;
        let mut reads = Vec::new();
        loop {
            let mut waiting = self.waiting();
            let line = &mut waiting.lines[kind as usize];
            if line.reads.is_empty() {
                line.at_work -= 1;
                waiting.come_back(connection, self.connections);
                return;
            }
            let taken = line.reads.len().min(group_reads_max);
            reads.extend(line.reads.drain(..taken));
            drop(waiting);
            // The callers of a read that panicked, and of those with it, learn of it when the reads are dropped.
            let carried_out = AssertUnwindSafe(|| in_one_snapshot(&connection, &mut reads));
            if let Ok(ended) = catch_unwind(carried_out) {
                for read in reads.drain(..) {
                    read.answer(ended.as_ref().err(), &self.state);
                }
            }
            reads.clear();
        }
    }

    /// Answers a signal of when the last connection is closed, where that is not yet so.
    fn close(&self) -> Option<oneshot::Receiver<()>> {
        let mut waiting = self.waiting();
        let at_work = waiting.lines.iter().any(|line| line.at_work > 0);
        waiting.closed = true;
        if !at_work {
            waiting.free.clear();
            return None;
        }
        let (ended, all_ended) = oneshot::channel();
        waiting.ended.push(ended);
        Some(all_ended)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

impl Waiting {
    fn come_back(&mut self, connection: Connection, connections: usize) {
        self.free.push(connection);
        if self.closed && self.free.len() == connections {
            self.free.clear();
            for ended in self.ended.drain(..) {
                // The caller may have stopped waiting.
                let _ = ended.send(());
            }
        }
    }
}

fn in_one_snapshot(connection: &Connection, reads: &mut [Box<dyn Read>]) -> Result<(), rusqlite::Error> {
    let transaction = connection.unchecked_transaction()?;
    for read in reads {
        read.carry_out(&transaction);
    }
    transaction.commit()
}

#[cfg(test)]
mod tests;
