//! The only thread that writes. It takes all waiting calls, carries them out in one transaction, syncs, and only then answers
//! them. A group is the calls that waited during the last commit; there is no timer. The other modules of the driver
//! implement the calls.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::accept;
use super::call::{Call, CallKind, SETTLE, carry_out_next, completion, pending_call};
use super::checkpoints::{self, Checkpoints, Reporter};
use super::failure::{BreakDownOnPanic, SqliteFailure};
use super::group::{CallError, Effects, Group, Totals};
use super::open_files::OpenFiles;
use crate::lease::LeaseKey;
use crate::store::clock::SteadyClock;
use crate::store::{Accepted, Settled, StoreError, Wakeups};

/// Calls that may wait for the writer. Beyond that, a caller is refused or waits, depending on the method.
const CALLS_WAITING_MAX: usize = 8_192;
/// Calls per transaction, and changed rows after which a transaction takes no further call. Both bound the wait of the first
/// call for its answer. A single call changes a few thousand rows at most.
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

/// The state that the writer thread takes over.
pub(super) struct WriterParts {
    pub connection: Connection,
    pub open_files: OpenFiles,
    pub clock: Arc<SteadyClock>,
    pub wakeups: Arc<Wakeups>,
    pub reporter: Reporter,
}

impl Writer {
    pub fn start(path: &Path, mut parts: WriterParts) -> anyhow::Result<Writer> {
        let totals = Totals::read(&parts.connection)?;
        let data_version = read_data_version(&parts.connection)?;
        let reporter = parts.reporter.clone();
        let checkpoints = Checkpoints::start(path, &mut parts.connection, reporter, checkpoints::LIMITS)?;
        let (calls, waiting) = mpsc::channel(CALLS_WAITING_MAX);
        let thread = WriterThread {
            parts,
            totals,
            data_version,
            checkpoints,
        };
        thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || thread.run(waiting))?;
        Ok(Writer { calls })
    }

    /// Carries out the call. Fails with [`StoreError::Busy`] if too many calls wait.
    pub async fn try_call<T: Send + 'static>(
        &self,
        attempted: &'static str,
        work: impl FnMut(&mut Group<'_>) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (call, answer) = pending_call(attempted, CallKind::Other, work);
        self.try_send(call)?;
        answered(attempted, answer).await
    }

    /// Carries out a call that stores new orders and changes no other order or event. Fails with [`StoreError::Busy`] if too many
    /// calls wait.
    pub async fn try_accept(
        &self,
        attempted: &'static str,
        work: impl FnMut(&mut Group<'_>) -> Result<Accepted, CallError> + Send + 'static,
    ) -> Result<Accepted, StoreError> {
        let (call, answer) = pending_call(attempted, CallKind::Accept, work);
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

    /// Carries out the call; waits for room if too many calls wait. Meant for workers, whose number is limited.
    pub async fn call<T: Send + 'static>(
        &self,
        attempted: &'static str,
        work: impl FnMut(&mut Group<'_>) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (call, answer) = pending_call(attempted, CallKind::Other, work);
        self.send(call).await?;
        answered(attempted, answer).await
    }

    /// Completes an attempt without a result document; waits for room as [`Writer::call`] does.
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

    /// Carries out the waiting calls and ends the thread.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.calls.send(Message::Close(done)).await.is_ok() {
            // Fails only if the thread has ended already.
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

/// Reads a number that changes with every commit of another connection.
fn read_data_version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection
        .prepare_cached("pragma data_version")?
        .query_row([], |row| row.get(0))
}

/// Reads the totals again if another connection has committed since the data version was `known`.
fn reread_if_changed(connection: &Connection, known: i64) -> Result<Option<(i64, Totals)>, rusqlite::Error> {
    let data_version = read_data_version(connection)?;
    if data_version == known {
        return Ok(None);
    }
    Ok(Some((data_version, Totals::read(connection)?)))
}

struct WriterThread {
    parts: WriterParts,
    /// The committed totals. Read again when another connection has changed the database.
    totals: Totals,
    /// The value of [`read_data_version`] when the totals were read.
    data_version: i64,
    checkpoints: Checkpoints,
}

impl WriterThread {
    fn run(mut self, mut waiting: mpsc::Receiver<Message>) {
        let health = self.parts.reporter.health.clone();
        let _guard = BreakDownOnPanic(&health);
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
            // Fails only if the caller stopped waiting.
            let _ = done.send(());
        }
    }

    /// Carries out and answers all calls, in as many transactions as needed.
    fn carry_out(&mut self, calls: &mut Vec<Box<dyn Call>>) {
        while !calls.is_empty() {
            let (attempted, result) = match self.parts.reporter.health.broken_reason() {
                Some(reason) => (calls.len(), Err(SqliteFailure::Broken(reason.into()))),
                None => self.commit(calls),
            };
            let group = calls.drain(..attempted);
            match result {
                // One refused call must not fail the others of its group: split the group in halves to find it.
                Err(failure) if failure.is_refusal() && attempted > 1 => {
                    let mut first: Vec<Box<dyn Call>> = group.collect();
                    let mut second = first.split_off(attempted / 2);
                    self.carry_out(&mut first);
                    self.carry_out(&mut second);
                }
                result => {
                    let mut failure = result.err();
                    // Reported before the answers, so that a caller that gets the failure sees the store not ready.
                    if let Some(failure) = &failure {
                        self.parts.reporter.failed(failure);
                        tracing::debug!(?failure, "a commit failed");
                    }
                    // The probe shows whether the call or the store is to blame.
                    if failure.as_ref().is_some_and(SqliteFailure::is_refusal)
                        || (failure.is_none() && self.parts.reporter.health.cannot_accept())
                    {
                        let probed = self.probe();
                        if probed.is_ok() {
                            failure = failure.map(SqliteFailure::of_single_call);
                        }
                        self.parts.reporter.health.probed(probed);
                    }
                    for call in group {
                        call.answer(failure.as_ref());
                    }
                }
            }
            self.checkpoints
                .run_if_due(&self.parts.connection, &self.parts.reporter);
        }
    }

    /// Stores an order as accept does, and rolls the transaction back.
    fn probe(&self) -> Result<(), SqliteFailure> {
        let begun = Transaction::new_unchecked(&self.parts.connection, TransactionBehavior::Immediate);
        let transaction = begun.map_err(|error| SqliteFailure::of(&error))?;
        let mut group = Group::new(&transaction, self.parts.clock.now(), self.totals);
        accept::probe(&mut group)
            .and_then(|()| group.write_accepted_events())
            .and_then(|()| group.finish().0.write(&transaction))
            .map_err(|error| SqliteFailure::of(&error))
    }

    /// Carries out and commits as many calls as one transaction takes. Returns their number and the result of the transaction.
    fn commit(&mut self, calls: &mut [Box<dyn Call>]) -> (usize, Result<(), SqliteFailure>) {
        let started = Instant::now();
        let changes_before = self.parts.connection.total_changes();
        if let Err(reason) = self.parts.open_files.check() {
            return (calls.len(), Err(SqliteFailure::Broken(reason.into())));
        }
        let begun = Transaction::new_unchecked(&self.parts.connection, TransactionBehavior::Immediate);
        let transaction = match begun {
            Ok(transaction) => transaction,
            Err(error) => return (calls.len(), Err(SqliteFailure::of(&error))),
        };
        match reread_if_changed(&transaction, self.data_version) {
            Ok(None) => {}
            Ok(Some((data_version, totals))) => {
                self.data_version = data_version;
                self.totals = totals;
            }
            Err(error) => return (calls.len(), Err(SqliteFailure::of(&error))),
        }
        let mut group = Group::new(&transaction, self.parts.clock.now(), self.totals);
        let mut attempted = 0;
        while attempted < calls.len() {
            let (taken, carried_out) = carry_out_next(&mut calls[attempted..], &mut group);
            attempted += taken;
            if let Err(error) = carried_out {
                return (attempted, Err(SqliteFailure::of(&error)));
            }
            let events_to_write = group.unwritten_events() as u64;
            if transaction.total_changes() - changes_before + events_to_write > GROUP_ROWS_MAX {
                break;
            }
        }
        if let Err(error) = group.write_accepted_events() {
            return (attempted, Err(SqliteFailure::of(&error)));
        }
        let (totals, effects) = group.finish();
        if totals != self.totals
            && let Err(error) = totals.write(&transaction)
        {
            return (attempted, Err(SqliteFailure::of(&error)));
        }
        if let Err(error) = transaction.commit() {
            return (attempted, Err(SqliteFailure::of_commit(&error)));
        }
        // If the file was replaced meanwhile, the commit went to a file that no client reads.
        if let Err(reason) = self.parts.open_files.check() {
            return (attempted, Err(SqliteFailure::Unknown(reason.into())));
        }
        // The checkpoint thread may have got the error of a failed sync of the same files at the same time.
        if let Some(reason) = self.parts.reporter.health.broken_reason() {
            return (attempted, Err(SqliteFailure::Unknown(reason.into())));
        }
        let changed = totals.last_position > self.totals.last_position;
        self.totals = totals;
        if changed {
            self.parts.wakeups.notify_changed();
        }
        if self.parts.connection.total_changes() > changes_before {
            self.parts.reporter.health.wrote();
            self.record_metrics(attempted, started);
        }
        self.publish(effects);
        (attempted, Ok(()))
    }

    fn record_metrics(&self, calls: usize, started: Instant) {
        let metrics = &self.parts.reporter.metrics;
        metrics.committed(calls, started.elapsed());
        let wal_bytes = self.checkpoints.backlog_pages() * PAGE_BYTES;
        metrics
            .store_wal
            .set(i64::try_from(wal_bytes).unwrap_or(i64::MAX));
    }

    fn publish(&self, effects: Effects) {
        let WriterParts {
            wakeups, reporter, ..
        } = &self.parts;
        let metrics = &reporter.metrics;
        metrics.orders_accepted.inc_by(effects.accepted);
        metrics.orders_overdue.inc_by(effects.overdue);
        metrics.leases_lost.inc_by(effects.leases_lost);
        metrics.stale_results_rejected.inc_by(effects.stale_results);
        if effects.work {
            wakeups.notify_work();
        }
        if effects.timers {
            wakeups.notify_timers();
        }
        wakeups.notify_final(effects.finals);
    }

    fn finish(self) {
        let reporter = &self.parts.reporter;
        if let Err(reason) = self.parts.open_files.check() {
            reporter.health.break_down(&reason);
        }
        if reporter.health.broken_reason().is_some() {
            // Otherwise the last connection to close would run a checkpoint and delete the WAL at this path, which may belong to
            // another store by now.
            let keep_wal = SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            if let Err(error) = self.parts.connection.set_db_config(keep_wal, true) {
                tracing::warn!(%error, "cannot turn off the final checkpoint");
            }
        }
        self.checkpoints
            .finish(&self.parts.connection, &self.parts.reporter);
        if let Err((_, error)) = self.parts.connection.close() {
            tracing::warn!(error = %error, "the database did not close cleanly; the next start repairs it");
        }
    }
}
