//! Short reads of single rows: those that wait are carried out one after another in one read transaction, as the writer
//! does with what changes. Beginning a transaction and handing a query to another thread cost more than such a read. The
//! transaction begins after the reads were taken, so each sees all that was answered before it was asked. Longer queries
//! are left to `reader`.

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

/// One connection does for all while it keeps up; where it does not, held up by the disk, say, the other helps.
const CONNECTIONS: usize = 2;
/// Reads that wait for each connection at work when another one is to help: fewer are done sooner without it.
const READS_TO_HELP_WITH: usize = 16;
/// Reads that may wait; more are refused.
const READS_WAITING_MAX: usize = 4_096;
/// Reads of one transaction: some 0.3 ms, for which the first of them waits for the last.
const GROUP_READS_MAX: usize = 64;

pub(super) struct Points {
    line: Arc<Line>,
}

struct Line {
    waiting: Mutex<Waiting>,
    state: Arc<State>,
}

struct Waiting {
    reads: VecDeque<Box<dyn Read>>,
    /// Connections that are not at work. One that is stays so until no read waits.
    free: Vec<Connection>,
    closed: bool,
    /// Told when all connections are closed.
    ended: Vec<oneshot::Sender<()>>,
}

/// A read that waits for its turn and keeps its result until the transaction has ended.
trait Read: Send {
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
        self.result = self.query.take().map(|query| query(connection));
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
            (None, None) => unreachable!("a transaction ends when each of its reads was carried out"),
        };
        // A caller that is gone wants no answer.
        let _ = self.answer.send(result);
    }
}

impl Points {
    pub fn open(path: &Path, state: Arc<State>) -> Result<Points, rusqlite::Error> {
        let free = (0..CONNECTIONS)
            .map(|_| open_reader(path))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Points {
            line: Arc::new(Line {
                waiting: Mutex::new(Waiting {
                    reads: VecDeque::new(),
                    free,
                    closed: false,
                    ended: Vec::new(),
                }),
                state,
            }),
        })
    }

    pub async fn read<T: Send + 'static>(
        &self,
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
        if let Some(connection) = self.line.enter(read)? {
            let line = self.line.clone();
            // Nobody waits for it: it answers the reads themselves.
            drop(spawn_blocking(move || line.work(connection)));
        }
        answered.await.unwrap_or_else(|_| {
            Err(StoreError::Unexpected {
                attempted,
                source: anyhow::Error::msg("a read that it went with panicked"),
            })
        })
    }

    /// Carries out what waits, refuses what comes later and closes the connections.
    pub async fn close(&self) {
        if let Some(all_ended) = self.line.close() {
            // An error means that the process lets go of everything.
            let _ = all_ended.await;
        }
    }
}

impl Line {
    /// Answers a connection where one more is to go to work.
    fn enter(&self, read: Box<dyn Read>) -> Result<Option<Connection>, StoreError> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(StoreError::Closed);
        }
        if waiting.reads.len() >= READS_WAITING_MAX {
            return Err(StoreError::Busy);
        }
        waiting.reads.push_back(read);
        let at_work = CONNECTIONS - waiting.free.len();
        let helps = waiting.reads.len() > at_work * READS_TO_HELP_WITH;
        Ok(if helps { waiting.free.pop() } else { None })
    }

    /// Until no read waits.
    fn work(&self, connection: Connection) {
        let mut reads = Vec::new();
        loop {
            let mut waiting = self.waiting();
            if waiting.reads.is_empty() {
                waiting.come_back(connection);
                return;
            }
            let taken = waiting.reads.len().min(GROUP_READS_MAX);
            reads.extend(waiting.reads.drain(..taken));
            drop(waiting);
            // Whoever waits for a read that panicked, or for one with it, is told when it is dropped.
            let carried_out = AssertUnwindSafe(|| in_one_snapshot(&connection, &mut reads));
            if let Ok(ended) = catch_unwind(carried_out) {
                for read in reads.drain(..) {
                    read.answer(ended.as_ref().err(), &self.state);
                }
            }
            reads.clear();
        }
    }

    /// To hear of when the last connection is closed, where that is not yet so.
    fn close(&self) -> Option<oneshot::Receiver<()>> {
        let mut waiting = self.waiting();
        let at_work = !waiting.closed && waiting.free.len() < CONNECTIONS || !waiting.ended.is_empty();
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
    fn come_back(&mut self, connection: Connection) {
        self.free.push(connection);
        if self.closed && self.free.len() == CONNECTIONS {
            self.free.clear();
            for ended in self.ended.drain(..) {
                // Whoever asked may have stopped waiting.
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
mod tests {
    use std::sync::mpsc;

    use super::super::connection::open_writer;
    use super::*;

    fn number(connection: &Connection) -> Result<i64, rusqlite::Error> {
        connection.query_row("select 7", [], |row| row.get(0))
    }

    struct Scene {
        points: Points,
        _folder: tempfile::TempDir,
    }

    fn scene() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        drop(open_writer(&path).unwrap());
        Scene {
            points: Points::open(&path, Arc::new(State::new())).unwrap(),
            _folder: folder,
        }
    }

    /// Keeps all connections at work until the senders are dropped.
    async fn occupied(points: &Points) -> Vec<mpsc::Sender<()>> {
        let mut ends = Vec::new();
        for _ in 0..CONNECTIONS {
            let (end, wait) = mpsc::channel::<()>();
            let (begun, started) = oneshot::channel();
            let held_up = points.read("wait", move |_| {
                begun.send(()).unwrap();
                Ok(wait.recv().is_err())
            });
            assert!(futures_util::poll!(Box::pin(held_up)).is_pending());
            // So many that a further one comes, if one is left.
            for _ in 0..CONNECTIONS * READS_TO_HELP_WITH {
                assert!(futures_util::poll!(Box::pin(points.read("read", number))).is_pending());
            }
            started.await.unwrap();
            ends.push(end);
        }
        ends
    }

    #[tokio::test]
    async fn reads_that_go_together_are_answered_each_for_itself() {
        let scene = scene();
        let points = &scene.points;
        let ends = occupied(points).await;
        let mut good = Box::pin(points.read("read", number));
        let mut bad = Box::pin(points.read("read", |connection| {
            connection.query_row("select 7 from nothing", [], |row| row.get::<_, i64>(0))
        }));
        let mut left = Box::pin(points.read("read", number));
        for read in [
            &mut good as &mut (dyn Future<Output = _> + Unpin),
            &mut bad,
            &mut left,
        ] {
            assert!(futures_util::poll!(read).is_pending());
        }
        drop(left);
        drop(ends);
        assert_eq!(good.await.unwrap(), 7);
        assert!(matches!(bad.await, Err(StoreError::Unexpected { .. })));
    }

    #[tokio::test]
    async fn a_read_that_panics_is_answered_and_takes_no_connection_with_it() {
        let Scene { points, _folder } = scene();
        for _ in 0..=CONNECTIONS {
            let panicked = points
                .read("read", |_| -> Result<(), _> { panic!("on purpose") })
                .await;
            assert!(matches!(panicked, Err(StoreError::Unexpected { .. })));
        }
        assert_eq!(points.read("read", number).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn what_waits_is_carried_out_before_the_end() {
        let scene = scene();
        let points = &scene.points;
        let ends = occupied(points).await;
        let mut waiting = Box::pin(points.read("read", number));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let mut closed = Box::pin(points.close());
        assert!(futures_util::poll!(&mut closed).is_pending());
        let late = points.read("read", number).await;
        assert!(matches!(late, Err(StoreError::Closed)));
        drop(ends);
        closed.await;
        assert_eq!(waiting.await.unwrap(), 7);
        points.close().await;
    }

    #[tokio::test]
    async fn more_reads_than_may_wait_are_refused() {
        let scene = scene();
        let points = &scene.points;
        let ends = occupied(points).await;
        let mut waiting = Vec::new();
        while points.line.waiting().reads.len() < READS_WAITING_MAX {
            let mut read = Box::pin(points.read("read", number));
            assert!(futures_util::poll!(&mut read).is_pending());
            waiting.push(read);
        }
        let refused = points.read("read", number).await;
        assert!(matches!(refused, Err(StoreError::Busy)));
        drop(ends);
        for read in waiting {
            assert_eq!(read.await.unwrap(), 7);
        }
    }
}
