//! The health of the store and the settings of the database, as its latest answers show them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::durability::{Durability, STANDBY_NO_LONGER_REQUIRED};
use super::failure::PgFailure;
use crate::store::StoreHealth;
use crate::store::health::{HANGS, Health, WAITS_FOR_STANDBY};

/// The time for which other writes wait for the probe after a writing statement was found to hang, before they are
/// refused: a single dead connection is no reason to refuse a call.
const HANG_WAIT_MAX: Duration = Duration::from_secs(1);

/// The node's view of the database. Written by every caller, read by the health checks and the probe.
pub(super) struct DatabaseState {
    health: Health,
    doubts: Mutex<Doubts>,
    doubted: Notify,
    /// A writing statement hangs. No other is sent until a commit of the probe returns.
    hang: watch::Sender<Option<Hang>>,
    weaknesses: Mutex<Vec<String>>,
    standby_was_required: AtomicBool,
    clock: Mutex<Clock>,
    used: Notify,
}

/// The server whose clock decides when leases expire.
#[derive(Default)]
struct Clock {
    /// The run of the server that answered last; `None` before the first heartbeat.
    run: Option<String>,
    /// The time from which an expired lease belongs to a dead node for certain.
    trusted_from: Option<Instant>,
    lease: Duration,
}

impl Clock {
    /// Gives every live node one lease time to renew its leases.
    fn distrust(&mut self) {
        self.trusted_from = Some(Instant::now() + self.lease);
    }
}

#[derive(Clone)]
struct Hang {
    since: Instant,
    reason: Arc<str>,
}

/// Doubts to clear before a store that was not ready counts as ready again. Reads and heartbeats do not show that
/// orders can be stored.
#[derive(Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each doubt is cleared by its own evidence"
)]
struct Doubts {
    /// A trial write like that of an accept must succeed; it is rolled back.
    write: bool,
    /// A commit must return, because one hung.
    commit: bool,
    /// The disk was full, so the trial write must allocate space.
    full: bool,
    /// The server could not be reached.
    away: bool,
    /// The server answers, but refused to store.
    refused: bool,
}

impl DatabaseState {
    pub fn new() -> DatabaseState {
        DatabaseState {
            health: Health::new(),
            doubts: Mutex::default(),
            doubted: Notify::new(),
            hang: watch::Sender::new(None),
            weaknesses: Mutex::default(),
            standby_was_required: AtomicBool::new(false),
            clock: Mutex::default(),
            used: Notify::new(),
        }
    }

    pub fn health(&self) -> StoreHealth {
        self.health.get()
    }

    /// Notes that the database ran a statement.
    pub fn works(&self) {
        self.doubts().away = false;
        self.used.notify_waiters();
    }

    /// Resolves when the next statement has run.
    pub async fn used(&self) {
        self.used.notified().await;
    }

    /// Notes that a writing statement was answered. While another hangs that proves nothing: the statement may have
    /// had nothing to write.
    pub fn stored(&self) {
        let mut doubts = self.doubts();
        if self.hang.borrow().is_none() {
            doubts.commit = false;
            self.judge(*doubts);
        }
    }

    /// Notes that a commit of the probe returned. While commits hung, no node could renew its leases.
    pub fn commits(&self) {
        let mut doubts = self.doubts();
        doubts.commit = false;
        if self.hang.borrow().is_some() {
            // Before the hang ends, since callers go on at once then.
            self.clock().distrust();
            self.hang.send_replace(None);
        }
        self.judge(*doubts);
    }

    /// Reports whether a commit must return before the store counts as ready.
    pub fn doubts_commits(&self) -> bool {
        self.doubts().commit
    }

    /// Notes that a writing statement hangs. Others would only hang as well, each on a connection of its own.
    pub fn hangs(&self, reason: &str) {
        tracing::debug!(reason, "a writing statement hangs");
        let mut doubts = self.doubts();
        doubts.commit = true;
        self.hang.send_if_modified(|hang| {
            let first = hang.is_none();
            if first {
                *hang = Some(Hang {
                    since: Instant::now(),
                    reason: HANGS.into(),
                });
            }
            first
        });
        if self.hang_reason().is_some_and(|reason| &*reason == HANGS) {
            self.fails(&mut doubts, HANGS);
        }
    }

    /// Notes that writing statements hang because no standby confirms their commits.
    pub fn waits_for_standby(&self) {
        let mut doubts = self.doubts();
        doubts.refused = true;
        let is_news = self
            .hang_reason()
            .is_some_and(|reason| &*reason != WAITS_FOR_STANDBY);
        if is_news {
            tracing::warn!(
                "{WAITS_FOR_STANDBY}: nothing is accepted, started or settled until it confirms them. Bring the standby back"
            );
        }
        self.hang.send_modify(|hang| {
            if let Some(hang) = hang {
                hang.reason = WAITS_FOR_STANDBY.into();
            }
        });
        self.health.fails(WAITS_FOR_STANDBY);
    }

    fn hang_reason(&self) -> Option<Arc<str>> {
        self.hang.borrow().as_ref().map(|hang| hang.reason.clone())
    }

    /// Waits for a short while until writes may be sent. Fails with [`PgFailure::Unavailable`] while a writing
    /// statement hangs.
    pub async fn wait_until_writable(&self) -> Result<(), PgFailure> {
        let hang = self.hang.borrow().clone();
        let Some(Hang { since, .. }) = hang else {
            return Ok(());
        };
        let mut hang = self.hang.subscribe();
        let over = hang.wait_for(Option::is_none);
        if timeout_at(since + HANG_WAIT_MAX, over).await.is_ok() {
            return Ok(());
        }
        match self.hang_reason() {
            Some(reason) => Err(PgFailure::Unavailable(reason)),
            None => Ok(()),
        }
    }

    /// Notes that a trial write succeeded.
    pub fn can_write(&self) {
        let mut doubts = self.doubts();
        doubts.write = false;
        doubts.full = false;
        doubts.refused = false;
        self.judge(*doubts);
    }

    /// Notes that a trial write failed.
    pub fn cannot_write(&self, reason: &str) {
        let mut doubts = self.doubts();
        doubts.write = true;
        doubts.refused = true;
        self.health.fails(reason);
    }

    /// Returns the reason to start no order: the server answers but stores nothing, so an attempt could not end.
    pub fn refuses_to_store(&self) -> Option<String> {
        let doubts = *self.doubts();
        match self.health.get() {
            StoreHealth::NotReady(reason) if doubts.refused && !doubts.away => Some(reason),
            StoreHealth::NotReady(_) | StoreHealth::Ready => None,
        }
    }

    /// Resolves when it becomes doubtful whether orders can be stored.
    pub async fn doubted(&self) {
        self.doubted.notified().await;
    }

    pub fn was_full(&self) -> bool {
        self.doubts().full
    }

    pub fn is_away(&self) -> bool {
        self.doubts().away
    }

    /// Notes that a statement failed.
    pub fn failed(&self, failure: &PgFailure) {
        let mut doubts = self.doubts();
        match failure {
            PgFailure::DiskFull => {
                doubts.full = true;
                doubts.refused = true;
                self.fails(&mut doubts, "the disk is full");
            }
            PgFailure::Hung(text) => {
                doubts.commit = true;
                self.fails(&mut doubts, text);
            }
            PgFailure::Unavailable(text)
            | PgFailure::Refused(text)
            | PgFailure::Unsuitable(text)
            | PgFailure::Unknown(text) => {
                doubts.away = true;
                self.fails(&mut doubts, text);
            }
            PgFailure::ReadOnly(text) => {
                doubts.refused = true;
                self.fails(&mut doubts, text);
            }
            // The failure may concern one call or one row; a probe finds out.
            PgFailure::TimedOut(_)
            | PgFailure::Forbidden { .. }
            | PgFailure::Rejected { .. }
            | PgFailure::Unexpected { .. } => self.doubted.notify_one(),
            // An epoch begins, and the statement is sent again.
            PgFailure::OtherServer(_)
            | PgFailure::Again(_)
            | PgFailure::Unreadable(_)
            | PgFailure::Closed => {}
        }
    }

    fn fails(&self, doubts: &mut Doubts, reason: &str) {
        doubts.write = true;
        self.health.fails(reason);
        self.doubted.notify_one();
    }

    fn judge(&self, doubts: Doubts) {
        if !doubts.write && !doubts.commit {
            self.health.works();
        }
    }

    /// Notes which run of a server answered a heartbeat. `lease` is the lease time of the node.
    pub fn server_answers(&self, run: &str, lease: Duration) {
        let mut clock = self.clock();
        if clock.run.as_deref() == Some(run) {
            return;
        }
        let is_other = clock.run.replace(run.to_owned()).is_some();
        clock.lease = lease;
        if is_other {
            tracing::info!(
                "another run of the database server answers: no order is taken back for {lease:?}"
            );
            clock.distrust();
        }
    }

    /// Notes which run of a server answers, if a heartbeat was answered before.
    pub fn server_answers_again(&self, run: &str) {
        let known = {
            let clock = self.clock();
            clock.run.is_some().then_some(clock.lease)
        };
        if let Some(lease) = known {
            self.server_answers(run, lease);
        }
    }

    /// Reports whether expired leases may still be held: the clock of a new server may be ahead of the one that
    /// granted them, or no node could renew them while commits hung. One lease time later all live nodes have renewed
    /// theirs.
    pub fn leases_may_be_held(&self) -> bool {
        let is_hanging = self.hang.borrow().is_some();
        is_hanging
            || self
                .clock()
                .trusted_from
                .is_some_and(|from| Instant::now() < from)
    }

    /// Fails while live nodes cannot be told from dead ones.
    pub fn require_known_nodes(&self) -> Result<(), PgFailure> {
        if self.leases_may_be_held() {
            let text = "the database server changed or hung; live nodes are known once they have renewed their leases";
            return Err(PgFailure::Unavailable(text.into()));
        }
        Ok(())
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock
            .lock()
            .expect("no code panics while it holds this lock")
    }

    pub fn closed(&self) {
        self.health.closed();
    }

    /// Notes that this binary must not touch the schema, so that the process ends.
    pub fn break_down(&self, reason: &str) {
        self.health.break_down(reason);
    }

    pub async fn broken(&self) -> String {
        self.health.broken().await
    }

    pub fn weaknesses(&self) -> Vec<String> {
        self.known_weaknesses().clone()
    }

    /// Notes how durable commits are under the settings of the database, and logs the weaknesses when they change. A
    /// cluster manager that finds no standby empties the setting that asks for one.
    pub fn found(&self, durability: &Durability<'_>) {
        let mut found = durability.weaknesses();
        if durability.requires_standby() {
            self.standby_was_required.store(true, Ordering::SeqCst);
        } else if self.standby_was_required.load(Ordering::SeqCst) {
            found.push(STANDBY_NO_LONGER_REQUIRED.to_owned());
        }
        let mut known = self.known_weaknesses();
        if *known != found {
            for weakness in &found {
                tracing::warn!(
                    "orders may be lost in a crash of the database: {weakness}. Change that setting"
                );
            }
            *known = found;
        }
    }

    fn known_weaknesses(&self) -> MutexGuard<'_, Vec<String>> {
        self.weaknesses
            .lock()
            .expect("no code panics while it holds this lock")
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
