//! Copies the log into the database before it grows too long. A thread with a connection of its own copies nearly all of it
//! while the writer goes on; the writer copies what came meanwhile and has the database synced, so that it may begin the log
//! anew. The automatic checkpoint is off: it ignores its own errors, a failed sync of the database among them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;

use super::connection::open_copier;
use super::failure::{BreakDownOnPanic, Failure, State};
use crate::metrics::Metrics;

/// In pages of 4 KiB, as the log counts them.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// The log is copied when it has so many. A page that many orders change is copied once for all of them, so the later
    /// the cheaper; the first start after a crash reads as much once.
    due: usize,
    /// So many the writer copies itself while everybody waits.
    rest: usize,
    /// So many more may come while a copy is under way; then the writer waits for its end.
    meanwhile: usize,
    /// So many come before the writer tries once more to begin the log anew, when somebody read in it.
    again: usize,
}

pub(super) const LIMITS: Limits = Limits {
    due: 8_192,
    rest: 1_024,
    meanwhile: 8_192,
    again: 64,
};
/// Copies beside the writer, one after another, each of them much shorter than the one before; then the writer copies what
/// is left, however much.
const PASSES_MAX: u32 = 3;

/// The writer's side.
pub(super) struct Checkpoints {
    limits: Limits,
    /// Pages in the log after the last commit; written by SQLite's hook.
    log: Arc<AtomicUsize>,
    /// As many were in the log when it was looked at last.
    seen: usize,
    /// As many of them are in the database, as far as is known.
    copied: usize,
    /// The log is copied when it has so many.
    due_at: usize,
    /// Passes since then; the last one is under way unless this is 0.
    passes: u32,
    copier: Copier,
}

/// The thread that copies. Its errors are noted by itself.
struct Copier {
    /// A pass is asked for. Dropped to end it.
    asked: SyncSender<()>,
    /// How many pages of the log were copied after each pass; nothing of one that failed.
    made: Receiver<Option<usize>>,
    thread: JoinHandle<()>,
}

/// Where errors are noted. Those of a checkpoint count like those of a commit: a failed sync is not tried again.
#[derive(Clone)]
pub(super) struct Notes {
    pub state: Arc<State>,
    pub metrics: Metrics,
}

impl Notes {
    pub fn failed(&self, failure: &Failure) {
        self.metrics.store_errors.inc();
        self.state.failed(failure);
    }

    /// Copies what can be copied now: not what a reader in the way may still need as it was. Answers how many pages of the
    /// log are copied; nothing if that is not known.
    fn copy(&self, connection: &Connection) -> Option<usize> {
        self.run(connection, "pragma wal_checkpoint(passive)")
    }

    fn run(&self, connection: &Connection, statement: &str) -> Option<usize> {
        if self.state.broken_reason().is_some() {
            return None;
        }
        match connection.query_row(statement, [], |row| row.get::<_, i64>(2)) {
            // -1 while another process makes a checkpoint.
            Ok(copied) => usize::try_from(copied).ok(),
            Err(error) => {
                self.failed(&Failure::of(&error));
                let thread = thread::current();
                tracing::warn!(error = %error, thread = thread.name(), "a checkpoint failed");
                None
            }
        }
    }
}

impl Checkpoints {
    /// Of the log that `writer` writes.
    pub fn start(
        path: &Path,
        writer: &mut Connection,
        notes: Notes,
        limits: Limits,
    ) -> anyhow::Result<Checkpoints> {
        let log = Arc::new(AtomicUsize::new(0));
        let counted = log.clone();
        writer.wal_hook(Some(move |_: &mut _, pages| {
            counted.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Checkpoints {
            limits,
            log,
            seen: 0,
            copied: 0,
            due_at: limits.due,
            passes: 0,
            copier: Copier::start(open_copier(path)?, notes)?,
        })
    }

    /// Pages in the log.
    fn pages(&self) -> usize {
        self.log.load(Ordering::Relaxed)
    }

    /// Pages in the log that are not in the database, as far as is known.
    pub fn left(&self) -> usize {
        let pages = self.pages();
        // Begun anew since the last look, none of it is.
        if pages < self.seen {
            pages
        } else {
            pages - self.copied
        }
    }

    /// Called by the writer between two commits.
    pub fn look(&mut self, writer: &Connection, notes: &Notes) {
        let pages = self.pages();
        if pages < self.seen {
            // Begun anew. A pass that had copied all of the old one is at its end, and says nothing of this one.
            if self.passes > 0 {
                self.copier.made.recv().unwrap_or(None);
                self.passes = 0;
            }
            self.copied = 0;
            self.due_at = self.limits.due;
        }
        self.seen = pages;
        if self.passes > 0 {
            let copied = match self.copier.made.try_recv() {
                Err(TryRecvError::Empty) if pages < self.due_at + self.limits.meanwhile => return,
                Err(TryRecvError::Empty) => self.copier.made.recv().unwrap_or(None),
                // A thread that panicked has said so.
                ended => ended.unwrap_or(None),
            };
            let copied = copied.unwrap_or(self.copied).min(pages);
            let came_on = copied > self.copied;
            self.copied = copied;
            if self.is_much_left() && !came_on {
                // Somebody reads in it who began long ago.
                self.passes = 0;
                self.due_at = pages + self.limits.rest;
                return;
            }
        } else if pages < self.due_at {
            return;
        }
        if self.is_much_left() && self.passes < PASSES_MAX {
            self.next_pass();
            return;
        }
        // The next transaction begins the log anew if all of it is copied and nobody reads in it; if somebody does, the
        // next try is soon.
        if let Some(copied) = notes.copy(writer) {
            self.copied = copied.min(pages);
        }
        self.passes = 0;
        self.due_at = pages + self.limits.again;
    }

    fn is_much_left(&self) -> bool {
        self.left() > self.limits.rest
    }

    fn next_pass(&mut self) {
        // The thread waits for it, unless it panicked, which it has said.
        if self.copier.asked.send(()).is_ok() {
            self.passes += 1;
        }
    }

    /// Copies all of it and empties the log.
    pub fn finish(self, writer: &Connection, notes: &Notes) {
        drop(self.copier.asked);
        if self.copier.thread.join().is_err() {
            tracing::warn!("the thread that copies the log panicked");
        }
        notes.run(writer, "pragma wal_checkpoint(truncate)");
    }
}

impl Copier {
    fn start(connection: Connection, notes: Notes) -> anyhow::Result<Copier> {
        let (asked, passes) = sync_channel(1);
        let (tell, made) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("sqlite-checkpoints".to_owned())
            .spawn(move || {
                let _guard = BreakDownOnPanic(&notes.state);
                while let Ok(()) = passes.recv() {
                    // Whoever asked may be closing.
                    let _ = tell.send(notes.copy(&connection));
                }
            })?;
        Ok(Copier { asked, made, thread })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::connection::{open_reader, open_writer};

    const SMALL: Limits = Limits {
        due: 64,
        rest: 8,
        meanwhile: 64,
        again: 8,
    };
    /// Many times what a test needs.
    const COMMITS_MAX: usize = 100_000;

    struct Log {
        writer: Connection,
        checkpoints: Checkpoints,
        notes: Notes,
        folder: tempfile::TempDir,
    }

    impl Log {
        fn new() -> Log {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("orders.db");
            let mut writer = open_writer(&path).unwrap();
            writer.execute_batch("create table rows (bytes blob)").unwrap();
            let notes = Notes {
                state: Arc::new(State::new()),
                metrics: Metrics::default(),
            };
            let checkpoints = Checkpoints::start(&path, &mut writer, notes.clone(), SMALL).unwrap();
            Log {
                writer,
                checkpoints,
                notes,
                folder,
            }
        }

        /// Stores a few pages; answers how long the log is before it was looked at.
        fn commit(&mut self) -> usize {
            let insert = "insert into rows values (zeroblob(10000))";
            self.writer.execute(insert, []).unwrap();
            let pages = self.checkpoints.pages();
            self.checkpoints.look(&self.writer, &self.notes);
            pages
        }

        /// Commits until the log is begun anew; answers its greatest length.
        fn fill(&mut self) -> usize {
            let mut longest = 0;
            for _ in 0..COMMITS_MAX {
                let pages = self.commit();
                if pages < longest {
                    return longest;
                }
                longest = pages;
            }
            panic!("the log is never begun anew");
        }
    }

    #[test]
    fn a_log_that_is_copied_beside_the_writer_stays_short() {
        /// Of one commit here, with some to spare.
        const PAGES_OF_A_COMMIT: usize = 8;
        let mut log = Log::new();
        for _ in 0..20 {
            let longest = log.fill();
            assert!(longest >= SMALL.due, "copied early, at {longest} pages");
            let most = SMALL.due + SMALL.meanwhile + PASSES_MAX as usize * PAGES_OF_A_COMMIT;
            assert!(longest <= most, "{longest} pages");
        }
        assert!(log.notes.state.broken_reason().is_none());
    }

    #[test]
    fn a_pass_over_the_old_log_says_nothing_of_the_new_one() {
        let mut log = Log::new();
        while log.checkpoints.passes == 0 {
            log.commit();
        }
        let other = open_reader(&log.folder.path().join("orders.db")).unwrap();
        let is_copied = || {
            let statement = "pragma wal_checkpoint(passive)";
            let counts = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
            // -1 while the pass is under way.
            let (pages, copied) = other.query_row(statement, [], counts).unwrap();
            copied > 0 && copied == pages
        };
        while !is_copied() {
            thread::yield_now();
        }
        let pages = log.commit();
        assert!(pages < SMALL.due, "not begun anew: {pages} pages");
        assert_eq!((log.checkpoints.passes, log.checkpoints.copied), (0, 0));
        assert!(log.fill() >= SMALL.due, "copied early");
    }

    #[test]
    fn a_reader_in_the_way_holds_it_up_until_it_is_done() {
        let mut log = Log::new();
        let reader = open_reader(&log.folder.path().join("orders.db")).unwrap();
        reader.execute_batch("begin; select count(*) from rows").unwrap();
        let mut longest = 0;
        while longest < 4 * (SMALL.due + SMALL.meanwhile) {
            let pages = log.commit();
            assert!(pages >= longest, "begun anew under a reader");
            longest = pages;
        }
        reader.execute_batch("commit").unwrap();
        log.fill();
        assert!(log.fill() < longest);
    }

    #[test]
    fn everything_is_in_the_database_in_the_end() {
        let mut log = Log::new();
        let commits = 200;
        for _ in 0..commits {
            log.commit();
        }
        let Log {
            writer,
            checkpoints,
            notes,
            folder,
        } = log;
        checkpoints.finish(&writer, &notes);
        let path = folder.path().join("orders.db");
        assert_eq!(std::fs::metadata(path.with_extension("db-wal")).unwrap().len(), 0);
        let stored: i64 = open_reader(&path)
            .unwrap()
            .query_row("select count(*) from rows", [], |row| row.get(0))
            .unwrap();
        assert_eq!(stored, commits);
    }
}
