//! The embedded driver: one SQLite file in WAL mode with synchronous=FULL, one writer thread with group commit, and a pool of
//! readers. One server per file. Time comes from [`SteadyClock`], not from SQLite.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rusqlite::Connection;

use crate::store::accept::WaitingOrders;
use crate::store::clock::SteadyClock;
use crate::store::opening::{OpenError, OpenOptions};
use crate::store::refusals::Refusals;
use crate::store::{StoreError, Wakeups};
use crate::time::Timestamp;

mod accept;
mod amend;
mod call;
mod cancel;
mod checkpoints;
mod choose;
mod claim;
mod connection;
mod damage;
mod epochs;
mod explain;
mod external_lease;
mod failure;
mod feed;
mod files;
mod give_back;
mod group;
mod hold;
mod listing;
mod lock;
pub(super) mod migrations;
mod milestone;
mod nodes;
mod offline;
mod open_files;
mod pause;
mod prune;
mod query;
mod reader;
mod redrive;
mod restored;
mod rows;
mod settle;
mod snapshot;
mod sole_server;
mod statements;
#[cfg(test)]
mod tests;
mod timers;
mod turns;
mod verbs;
mod vitals;
mod writer;

use checkpoints::Reporter;
use failure::SqliteHealth;
use files::unavailable;
use lock::ServerLock;
pub use offline::{migrate, open_offline, open_snapshot};
use open_files::OpenFiles;
use reader::{ReadKind, Readers};
pub use restored::{begin_epoch, require_unused};
use sole_server::SoleServer;
use writer::{Writer, WriterParts};

pub struct Sqlite {
    path: Arc<Path>,
    writer: Writer,
    readers: Readers,
    clock: Arc<SteadyClock>,
    wakeups: Arc<Wakeups>,
    health: Arc<SqliteHealth>,
    waiting: WaitingOrders,
    pending_max: Option<u64>,
    /// Decides which line gets the odd place of a claim while both have work.
    second_line_first: Arc<AtomicBool>,
    sole_server: Arc<SoleServer>,
    /// Orders that the database refuses to start or to take back.
    refusals: Refusals,
    /// Held until the store is closed.
    server_lock: std::sync::Mutex<Option<Arc<ServerLock>>>,
}

impl Sqlite {
    /// Opens the file for serving. Creates it if it does not exist.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Sqlite, OpenError> {
        lock::lock(path)
            .and_then(|server_lock| Sqlite::open_locked(path, options, Arc::new(server_lock)))
            .map_err(connection::with_remedy)
    }

    fn open_locked(
        path: &Path,
        options: OpenOptions,
        server_lock: Arc<ServerLock>,
    ) -> Result<Sqlite, OpenError> {
        migrations::require_known(path)?;
        let mut connection = connection::open_writer(path)?;
        if options.migrate {
            migrations::apply(path, &mut connection)?;
        }
        migrations::require_current(path, &connection)?;
        let failed = |error: rusqlite::Error| unavailable(path, error.into());
        let newest = snapshot::newest_time(&connection).map_err(failed)?;
        let floor = newest.unwrap_or(Timestamp::from_micros(0));
        let clock = Arc::new(SteadyClock::new(options.clock, floor));
        if let Some(ordering) = options.ordering {
            turns::set_ordering(&mut connection, ordering, clock.now()).map_err(failed)?;
        }
        let wakeups = Arc::new(Wakeups::default());
        // No other process writes to the file.
        wakeups.set_hears_all(true);
        let health = Arc::new(SqliteHealth::new());
        let sole_server = Arc::new(SoleServer::new(clock.now(), health.clone()));
        let open_files =
            OpenFiles::at(path, server_lock.clone()).map_err(|source| unavailable(path, source))?;
        lock::warn_if_open_to_others(server_lock.real_path());
        let readers = Readers::open(path, health.clone()).map_err(failed)?;
        let parts = WriterParts {
            connection,
            open_files,
            clock: clock.clone(),
            wakeups: wakeups.clone(),
            reporter: Reporter {
                health: health.clone(),
                metrics: options.metrics,
            },
        };
        let writer = Writer::start(path, parts).map_err(|source| unavailable(path, source))?;
        Ok(Sqlite {
            path: path.into(),
            writer,
            readers,
            clock,
            wakeups,
            health,
            waiting: WaitingOrders::new(),
            pending_max: options.pending_max,
            second_line_first: Arc::new(AtomicBool::new(false)),
            sole_server,
            refusals: Refusals::default(),
            server_lock: std::sync::Mutex::new(Some(server_lock)),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        kind: ReadKind,
        attempted: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.read(kind, attempted, query).await
    }
}
