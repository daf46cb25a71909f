//! Checkpoints: copy the write-ahead log (WAL) into the database before it grows too long. A thread with its own connection
//! copies almost all of it while the writer keeps committing. The writer then copies the rest and syncs the database, after
//! which SQLite can restart the WAL from its beginning. SQLite's automatic checkpoint is off because it ignores its own errors,
//! including a failed sync of the database.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;

use super::connection::open_checkpointer;
use super::failure::{BreakDownOnPanic, SqliteFailure, SqliteHealth};
use crate::metrics::Metrics;

/// Thresholds in WAL pages of 4 KiB.
#[derive(Clone, Copy)]
pub(super) struct CheckpointLimits {
    /// WAL length at which a checkpoint starts. A longer WAL is cheaper to copy, because a page that was changed many times
    /// is copied once. The price is the first start after a crash, which reads the whole WAL.
    start_pages: usize,
    /// Pages that the writer may copy itself, which delays all commits.
    inline_pages_max: usize,
    /// Pages that may be added while the thread copies. Beyond that the writer waits for the thread.
    backlog_pages_max: usize,
    /// Pages added before the writer tries again to restart a WAL that a reader was using.
    retry_pages: usize,
}

pub(super) const LIMITS: CheckpointLimits = CheckpointLimits {
    start_pages: 8_192,
    inline_pages_max: 1_024,
    backlog_pages_max: 8_192,
    retry_pages: 64,
};
/// Passes of the thread per checkpoint. Each is much shorter than the one before. The writer then copies the rest, however
/// long.
const PASSES_MAX: u32 = 3;

/// The writer's side of checkpoints: decides when to copy, and who copies.
pub(super) struct Checkpoints {
    limits: CheckpointLimits,
    /// WAL length after the last commit. Written by SQLite's WAL hook.
    wal_pages: Arc<AtomicUsize>,
    /// WAL length at the last call of [`Checkpoints::run_if_due`].
    seen_pages: usize,
    /// Pages of the WAL known to be copied into the database.
    copied_pages: usize,
    /// WAL length at which the next checkpoint starts.
    due_at_pages: usize,
    /// Passes of the current checkpoint, the last of which still runs. 0 between checkpoints.
    passes: u32,
    thread: CheckpointThread,
}

/// The thread that copies. It reports its own errors.
struct CheckpointThread {
    /// Each message requests a pass. Dropping the sender ends the thread.
    requests: SyncSender<()>,
    /// Pages copied so far, after each pass. `None` if the pass failed.
    results: Receiver<Option<usize>>,
    handle: JoinHandle<()>,
}

/// Records failures in the store's health and metrics. A failed checkpoint counts like a failed commit: a failed sync is never
/// retried.
#[derive(Clone)]
pub(super) struct Reporter {
    pub health: Arc<SqliteHealth>,
    pub metrics: Metrics,
}

impl Reporter {
    pub fn failed(&self, failure: &SqliteFailure) {
        self.metrics.store_errors.inc();
        self.health.failed(failure);
    }

    /// Copies the pages that no open reader still needs in their old form. Returns how many pages of the WAL are copied by now;
    /// `None` if that is unknown.
    fn checkpoint(&self, connection: &Connection) -> Option<usize> {
        self.run_checkpoint(connection, "pragma wal_checkpoint(passive)")
    }

    fn run_checkpoint(&self, connection: &Connection, statement: &str) -> Option<usize> {
        if self.health.broken_reason().is_some() {
            return None;
        }
        match connection.query_row(statement, [], |row| row.get::<_, i64>(2)) {
            // -1 while another process runs a checkpoint.
            Ok(copied) => usize::try_from(copied).ok(),
            Err(error) => {
                self.failed(&SqliteFailure::of(&error));
                let thread = thread::current();
                tracing::warn!(error = %error, thread = thread.name(), "a checkpoint failed: the -wal file grows until one succeeds; look at the disk");
                None
            }
        }
    }
}

impl Checkpoints {
    /// Starts the thread for the database at `path`, whose WAL `writer` writes.
    pub fn start(
        path: &Path,
        writer: &mut Connection,
        reporter: Reporter,
        limits: CheckpointLimits,
    ) -> anyhow::Result<Checkpoints> {
        let wal_pages = Arc::new(AtomicUsize::new(0));
        let counted = wal_pages.clone();
        writer.wal_hook(Some(move |_: &mut _, pages| {
            counted.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Checkpoints {
            limits,
            wal_pages,
            seen_pages: 0,
            copied_pages: 0,
            due_at_pages: limits.start_pages,
            passes: 0,
            thread: CheckpointThread::start(open_checkpointer(path)?, reporter)?,
        })
    }

    /// WAL length in pages.
    fn pages(&self) -> usize {
        self.wal_pages.load(Ordering::Relaxed)
    }

    /// Pages of the WAL not known to be copied into the database.
    pub fn backlog_pages(&self) -> usize {
        let pages = self.pages();
        // The WAL was restarted since the last call, and none of the new one is copied.
        if pages < self.seen_pages {
            pages
        } else {
            pages - self.copied_pages
        }
    }

    /// Starts, continues or finishes a checkpoint if it is time. The writer calls this between commits.
    pub fn run_if_due(&mut self, writer: &Connection, reporter: &Reporter) {
        let pages = self.pages();
        if pages < self.seen_pages {
            // The WAL was restarted. A pass that copied all of the old WAL has finished, and its result does not apply to the new
            // one.
            if self.passes > 0 {
                self.thread.results.recv().unwrap_or(None);
                self.passes = 0;
            }
            self.copied_pages = 0;
            self.due_at_pages = self.limits.start_pages;
        }
        self.seen_pages = pages;
        if self.passes > 0 {
            let copied = match self.thread.results.try_recv() {
                Err(TryRecvError::Empty) if pages < self.due_at_pages + self.limits.backlog_pages_max => {
                    return;
                }
                Err(TryRecvError::Empty) => self.thread.results.recv().unwrap_or(None),
                // A thread that panicked has reported it.
                ended => ended.unwrap_or(None),
            };
            let copied = copied.unwrap_or(self.copied_pages).min(pages);
            let progressed = copied > self.copied_pages;
            self.copied_pages = copied;
            if self.exceeds_inline_limit() && !progressed {
                // A long-running reader blocks the checkpoint.
                self.passes = 0;
                self.due_at_pages = pages + self.limits.inline_pages_max;
                return;
            }
        } else if pages < self.due_at_pages {
            return;
        }
        if self.exceeds_inline_limit() && self.passes < PASSES_MAX {
            self.start_pass();
            return;
        }
        // If all of the WAL is copied and no reader uses it, the next transaction restarts it. If one does, try again soon.
        if let Some(copied) = reporter.checkpoint(writer) {
            self.copied_pages = copied.min(pages);
        }
        self.passes = 0;
        self.due_at_pages = pages + self.limits.retry_pages;
    }

    fn exceeds_inline_limit(&self) -> bool {
        self.backlog_pages() > self.limits.inline_pages_max
    }

    fn start_pass(&mut self) {
        // Sending fails only if the thread panicked, which it has reported.
        if self.thread.requests.send(()).is_ok() {
            self.passes += 1;
        }
    }

    /// Ends the thread, copies the rest of the WAL and empties it.
    pub fn finish(self, writer: &Connection, reporter: &Reporter) {
        drop(self.thread.requests);
        if self.thread.handle.join().is_err() {
            tracing::warn!("the checkpoint thread panicked");
        }
        reporter.run_checkpoint(writer, "pragma wal_checkpoint(truncate)");
    }
}

impl CheckpointThread {
    fn start(connection: Connection, reporter: Reporter) -> anyhow::Result<CheckpointThread> {
        let (requests, passes) = sync_channel(1);
        let (answer, results) = sync_channel(1);
        let handle = thread::Builder::new()
            .name("sqlite-checkpoints".to_owned())
            .spawn(move || {
                let _guard = BreakDownOnPanic(&reporter.health);
                while let Ok(()) = passes.recv() {
                    // The writer may have stopped waiting because it is closing.
                    let _ = answer.send(reporter.checkpoint(&connection));
                }
            })?;
        Ok(CheckpointThread {
            requests,
            results,
            handle,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::connection::{open_reader, open_writer};

    const SMALL: CheckpointLimits = CheckpointLimits {
        start_pages: 64,
        inline_pages_max: 8,
        backlog_pages_max: 64,
        retry_pages: 8,
    };
    /// Far more commits than a test needs.
    const COMMITS_MAX: usize = 100_000;

    struct WalFixture {
        writer: Connection,
        checkpoints: Checkpoints,
        reporter: Reporter,
        folder: tempfile::TempDir,
    }

    impl WalFixture {
        fn new() -> WalFixture {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("orders.db");
            let mut writer = open_writer(&path).unwrap();
            writer.execute_batch("create table rows (bytes blob)").unwrap();
            let reporter = Reporter {
                health: Arc::new(SqliteHealth::new()),
                metrics: Metrics::default(),
            };
            let checkpoints = Checkpoints::start(&path, &mut writer, reporter.clone(), SMALL).unwrap();
            WalFixture {
                writer,
                checkpoints,
                reporter,
                folder,
            }
        }

        /// Writes a few pages. Returns the WAL length before the checkpoint ran.
        fn commit(&mut self) -> usize {
            let insert = "insert into rows values (zeroblob(10000))";
            self.writer.execute(insert, []).unwrap();
            let pages = self.checkpoints.pages();
            self.checkpoints.run_if_due(&self.writer, &self.reporter);
            pages
        }

        /// Commits until the WAL restarts. Returns its greatest length.
        fn fill(&mut self) -> usize {
            let mut longest = 0;
            for _ in 0..COMMITS_MAX {
                let pages = self.commit();
                if pages < longest {
                    return longest;
                }
                longest = pages;
            }
            panic!("the WAL never restarts");
        }
    }

    #[test]
    fn concurrent_checkpoints_keep_the_wal_short() {
        /// Upper bound for one commit of this test.
        const PAGES_PER_COMMIT_MAX: usize = 8;
        let mut wal = WalFixture::new();
        for _ in 0..20 {
            let longest = wal.fill();
            assert!(longest >= SMALL.start_pages, "copied early, at {longest} pages");
            let most =
                SMALL.start_pages + SMALL.backlog_pages_max + PASSES_MAX as usize * PAGES_PER_COMMIT_MAX;
            assert!(longest <= most, "{longest} pages");
        }
        assert!(wal.reporter.health.broken_reason().is_none());
    }

    #[test]
    fn a_pass_over_the_old_wal_does_not_count_for_the_new_one() {
        let mut wal = WalFixture::new();
        while wal.checkpoints.passes == 0 {
            wal.commit();
        }
        let other = open_reader(&wal.folder.path().join("orders.db")).unwrap();
        let is_copied = || {
            let statement = "pragma wal_checkpoint(passive)";
            let counts = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
            // -1 while the pass runs.
            let (pages, copied) = other.query_row(statement, [], counts).unwrap();
            copied > 0 && copied == pages
        };
        while !is_copied() {
            thread::yield_now();
        }
        let pages = wal.commit();
        assert!(pages < SMALL.start_pages, "not restarted: {pages} pages");
        assert_eq!((wal.checkpoints.passes, wal.checkpoints.copied_pages), (0, 0));
        assert!(wal.fill() >= SMALL.start_pages, "copied early");
    }

    #[test]
    fn a_reader_delays_the_restart_of_the_wal_until_it_ends() {
        let mut wal = WalFixture::new();
        let reader = open_reader(&wal.folder.path().join("orders.db")).unwrap();
        reader.execute_batch("begin; select count(*) from rows").unwrap();
        let mut longest = 0;
        while longest < 4 * (SMALL.start_pages + SMALL.backlog_pages_max) {
            let pages = wal.commit();
            assert!(pages >= longest, "restarted under a reader");
            longest = pages;
        }
        reader.execute_batch("commit").unwrap();
        wal.fill();
        assert!(wal.fill() < longest);
    }

    #[test]
    fn finish_moves_everything_into_the_database() {
        let mut wal = WalFixture::new();
        let commits = 200;
        for _ in 0..commits {
            wal.commit();
        }
        let WalFixture {
            writer,
            checkpoints,
            reporter,
            folder,
        } = wal;
        checkpoints.finish(&writer, &reporter);
        let path = folder.path().join("orders.db");
        assert_eq!(std::fs::metadata(path.with_extension("db-wal")).unwrap().len(), 0);
        let stored: i64 = open_reader(&path)
            .unwrap()
            .query_row("select count(*) from rows", [], |row| row.get(0))
            .unwrap();
        assert_eq!(stored, commits);
    }
}
