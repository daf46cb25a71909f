//! The one thread that writes: takes whatever calls wait, carries them out in one transaction, syncs, and only
//! then answers. A group is what waited while the last one committed; there is no timer. What a call does is
//! left to the modules beside this one.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::accept;
use super::call::{Call, Kind, SETTLE, carry_out_next, completion, pending};
use super::checkpoints::{self, Checkpoints, Notes};
use super::failure::{BreakDownOnPanic, Failure};
use super::group::{CallError, Effects, Group, Totals};
use super::opened::Opened;
use crate::lease::LeaseKey;
use crate::store::clock::SteadyClock;
use crate::store::{Accepted, Settled, StoreError, Wakeups};

/// Calls that may wait for the writer; callers beyond are refused or wait, as they choose.
const CALLS_WAITING_MAX: usize = 8_192;
/// Calls taken at once, and rows changed after which a transaction takes no further call: together they bound how
/// long the first of them waits for its answer. One call alone changes a few thousand rows at most.
const GROUP_CALLS_MAX: usize = 1_024;
const GROUP_ROWS_MAX: u64 = 20_000;
/// SQLite's default.
const PAGE_BYTES: usize = 4_096;

/// Sends calls to the writer thread.
pub(super) struct Writer {
    calls: mpsc::Sender<Message>,
}

enum Message {
    Call(Box<dyn Call>),
    Close(oneshot::Sender<()>),
}

/// What the thread needs.
pub(super) struct WriterParts {
    pub connection: Connection,
    pub opened: Opened,
    pub clock: Arc<SteadyClock>,
    pub wakeups: Arc<Wakeups>,
    pub notes: Notes,
}

impl Writer {
    pub fn start(path: &Path, mut parts: WriterParts) -> anyhow::Result<Writer> {
        let totals = Totals::read(&parts.connection)?;
        let others_commits = data_version(&parts.connection)?;
        let notes = parts.notes.clone();
        let checkpoints = Checkpoints::start(path, &mut parts.connection, notes, checkpoints::LIMITS)?;
        let (calls, waiting) = mpsc::channel(CALLS_WAITING_MAX);
        let thread = WriterThread {
            parts,
            totals,
            others_commits,
            checkpoints,
        };
        thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || thread.run(waiting))?;
        Ok(Writer { calls })
    }

    /// Refuses with [`StoreError::Busy`] when too many calls wait.
    pub async fn try_call<T: Send + 'static>(
        &self,
        attempted: &'static str,
        work: impl FnMut(&mut Group<'_>) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (call, answer) = pending(attempted, Kind::Other, work);
        self.try_send(call)?;
        answered(attempted, answer).await
    }

    /// The same for a call that stores new orders and changes nothing else about orders or events.
    pub async fn try_accept(
        &self,
        attempted: &'static str,
        work: impl FnMut(&mut Group<'_>) -> Result<Accepted, CallError> + Send + 'static,
    ) -> Result<Accepted, StoreError> {
        let (call, answer) = pending(attempted, Kind::Accept, work);
        self.try_send(call)?;
        answered(attempted, answer).await
    }

    fn try_send(&self, call: Box<dyn Call>) -> Result<(), StoreError> {
        self.calls
            .try_send(Message::Call(call))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => StoreError::Busy,
                mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
            })
    }

    /// Waits for a place when too many calls wait: for the workers, whose number is limited.
    pub async fn call<T: Send + 'static>(
        &self,
        attempted: &'static str,
        work: impl FnMut(&mut Group<'_>) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (call, answer) = pending(attempted, Kind::Other, work);
        self.send(call).await?;
        answered(attempted, answer).await
    }

    /// Completes an attempt without a result; waits for a place as [`Writer::call`] does.
    pub async fn complete(&self, key: LeaseKey) -> Result<Settled, StoreError> {
        let (call, answer) = completion(key);
        self.send(call).await?;
        answered(SETTLE, answer).await
    }

    async fn send(&self, call: Box<dyn Call>) -> Result<(), StoreError> {
        self.calls
            .send(Message::Call(call))
            .await
            .map_err(|_| StoreError::Closed)
    }

    /// Carries out what waits and ends the thread.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.calls.send(Message::Close(done)).await.is_ok() {
            // An error means that the thread ended on its own, which is what was asked for.
            let _ = closed.await;
        }
    }
}

async fn answered<T>(
    attempted: &'static str,
    answer: oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    answer.await.unwrap_or_else(|_| {
        Err(StoreError::Unexpected {
            attempted,
            source: anyhow::Error::msg("the writer thread ended before it answered"),
        })
    })
}

/// Returns a number that changes when another connection has committed something.
fn data_version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection
        .prepare_cached("pragma data_version")?
        .query_row([], |row| row.get(0))
}

/// Reads the totals again where another connection has changed the database since.
fn read_again(connection: &Connection, known: i64) -> Result<Option<(i64, Totals)>, rusqlite::Error> {
    let others_commits = data_version(connection)?;
    if others_commits == known {
        return Ok(None);
    }
    Ok(Some((others_commits, Totals::read(connection)?)))
}

struct WriterThread {
    parts: WriterParts,
    /// The totals as committed; read again when another connection has changed the database.
    totals: Totals,
    /// The value of [`data_version`] when the totals were read.
    others_commits: i64,
    checkpoints: Checkpoints,
}

impl WriterThread {
    fn run(mut self, mut waiting: mpsc::Receiver<Message>) {
        let state = self.parts.notes.state.clone();
        let _guard = BreakDownOnPanic(&state);
        let mut calls = Vec::new();
        let mut closing = None;
        while let Some(message) = waiting.blocking_recv() {
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Call(call) => calls.push(call),
                    Message::Close(done) => {
                        waiting.close();
                        closing = Some(done);
                    }
                }
                next = if calls.len() < GROUP_CALLS_MAX {
                    waiting.try_recv().ok()
                } else {
                    None
                };
            }
            if !calls.is_empty() {
                self.carry_out(&mut calls);
            }
        }
        self.finish();
        if let Some(done) = closing {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }

    /// Answers all of the calls, in as many transactions as they need.
    fn carry_out(&mut self, calls: &mut Vec<Box<dyn Call>>) {
        while !calls.is_empty() {
            let (attempted, result) = match self.parts.notes.state.broken_reason() {
                Some(reason) => (calls.len(), Err(Failure::Broken(reason.into()))),
                None => self.commit(calls),
            };
            let group = calls.drain(..attempted);
            match result {
                // One wrong call must not fail the others of its group: it is looked for by halves.
                Err(failure) if failure.is_refusal() && attempted > 1 => {
                    let mut first: Vec<Box<dyn Call>> = group.collect();
                    let mut second = first.split_off(attempted / 2);
                    self.carry_out(&mut first);
                    self.carry_out(&mut second);
                }
                result => {
                    let mut failure = result.err();
                    // Noted first, so that whoever is told of a failure finds the store not ready.
                    if let Some(failure) = &failure {
                        self.parts.notes.failed(failure);
                        tracing::debug!(?failure, "a commit failed");
                    }
                    // Either the call or the store is to blame.
                    if failure.as_ref().is_some_and(Failure::is_refusal)
                        || (failure.is_none() && self.parts.notes.state.cannot_accept())
                    {
                        let probed = self.probe();
                        if probed.is_ok() {
                            failure = failure.map(Failure::of_one);
                        }
                        self.parts.notes.state.probed(probed);
                    }
                    for call in group {
                        call.answer(failure.as_ref());
                    }
                }
            }
            self.checkpoints.look(&self.parts.connection, &self.parts.notes);
        }
    }

    /// Stores an order as accept does, and rolls that back.
    fn probe(&self) -> Result<(), Failure> {
        let begun = Transaction::new_unchecked(&self.parts.connection, TransactionBehavior::Immediate);
        let transaction = begun.map_err(|error| Failure::of(&error))?;
        let mut group = Group::new(&transaction, self.parts.clock.now(), self.totals);
        accept::probe(&mut group)
            .and_then(|()| group.write_accepted())
            .and_then(|()| group.end().0.write(&transaction))
            .map_err(|error| Failure::of(&error))
    }

    /// Commits as many calls as one transaction takes; answers how many that were, and what became of them.
    fn commit(&mut self, calls: &mut [Box<dyn Call>]) -> (usize, Result<(), Failure>) {
        let started = Instant::now();
        let changes_before = self.parts.connection.total_changes();
        if let Err(reason) = self.parts.opened.check() {
            return (calls.len(), Err(Failure::Broken(reason.into())));
        }
        let begun = Transaction::new_unchecked(&self.parts.connection, TransactionBehavior::Immediate);
        let transaction = match begun {
            Ok(transaction) => transaction,
            Err(error) => return (calls.len(), Err(Failure::of(&error))),
        };
        match read_again(&transaction, self.others_commits) {
            Ok(None) => {}
            Ok(Some((others_commits, totals))) => {
                self.others_commits = others_commits;
                self.totals = totals;
            }
            Err(error) => return (calls.len(), Err(Failure::of(&error))),
        }
        let mut group = Group::new(&transaction, self.parts.clock.now(), self.totals);
        let mut attempted = 0;
        while attempted < calls.len() {
            let (taken, carried_out) = carry_out_next(&mut calls[attempted..], &mut group);
            attempted += taken;
            if let Err(error) = carried_out {
                return (attempted, Err(Failure::of(&error)));
            }
            let events_to_write = group.accepted_orders() as u64;
            if transaction.total_changes() - changes_before + events_to_write > GROUP_ROWS_MAX {
                break;
            }
        }
        if let Err(error) = group.write_accepted() {
            return (attempted, Err(Failure::of(&error)));
        }
        let (totals, effects) = group.end();
        if totals != self.totals
            && let Err(error) = totals.write(&transaction)
        {
            return (attempted, Err(Failure::of(&error)));
        }
        if let Err(error) = transaction.commit() {
            return (attempted, Err(Failure::of_commit(&error)));
        }
        // Stored where no client finds it, if the file was replaced meanwhile.
        if let Err(reason) = self.parts.opened.check() {
            return (attempted, Err(Failure::Unknown(reason.into())));
        }
        // Somebody else may have been told of a sync that failed, of the same files and at the same time.
        if let Some(reason) = self.parts.notes.state.broken_reason() {
            return (attempted, Err(Failure::Unknown(reason.into())));
        }
        let changed = totals.last_position > self.totals.last_position;
        self.totals = totals;
        if changed {
            self.parts.wakeups.notify_changed();
        }
        if self.parts.connection.total_changes() > changes_before {
            self.parts.notes.state.wrote();
            self.measure(attempted, started);
        }
        self.tell(effects);
        (attempted, Ok(()))
    }

    fn measure(&self, calls: usize, started: Instant) {
        let metrics = &self.parts.notes.metrics;
        metrics.committed(calls, started.elapsed());
        let wal_bytes = self.checkpoints.left() * PAGE_BYTES;
        metrics
            .store_wal_bytes
            .set(i64::try_from(wal_bytes).unwrap_or(i64::MAX));
    }

    fn tell(&self, effects: Effects) {
        let WriterParts { wakeups, notes, .. } = &self.parts;
        let metrics = &notes.metrics;
        metrics.orders_accepted.inc_by(effects.accepted);
        metrics.leases_lost.inc_by(effects.leases_lost);
        metrics.stale_results_rejected.inc_by(effects.stale_results);
        if effects.work {
            wakeups.notify_work();
        }
        wakeups.notify_final(effects.finals);
    }

    fn finish(self) {
        let notes = &self.parts.notes;
        if let Err(reason) = self.parts.opened.check() {
            notes.state.break_down(&reason);
        }
        if notes.state.broken_reason().is_some() {
            // The last connection to close would copy the log into the database and delete it, whosever it is by now.
            let kept = SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            if let Err(error) = self.parts.connection.set_db_config(kept, true) {
                tracing::warn!(%error, "cannot keep the log from being copied at the end");
            }
        }
        self.checkpoints.finish(&self.parts.connection, &self.parts.notes);
        if let Err((_, error)) = self.parts.connection.close() {
            tracing::warn!(error = %error, "the database did not close cleanly");
        }
    }
}
