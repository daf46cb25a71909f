//! The store's health and settings, as the last answers of the database tell.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::durability::{Durability, STANDBY_NO_LONGER_REQUIRED};
use super::failure::Failure;
use crate::store::StoreHealth;
use crate::store::health::{HANGS, Health, WAITS_FOR_STANDBY};

/// The time, from when a statement that stores was found to hang, for which others wait for the probe instead of being
/// refused: one connection that died is no reason to refuse anybody.
const HANG_WAIT_MAX: Duration = Duration::from_secs(1);

pub(super) struct State {
    health: Health,
    doubt: Mutex<Doubt>,
    doubted: Notify,
    /// A statement that stores hangs: no other one is sent until a commit of the probe's comes back.
    hang: watch::Sender<Option<Hang>>,
    weaknesses: Mutex<Vec<String>>,
    standby_was_required: AtomicBool,
    clock: Mutex<Clock>,
    used: Notify,
}

/// The server by whose clock leases run out.
#[derive(Default)]
struct Clock {
    /// The run that answered last; `None` before the first heartbeat.
    run: Option<String>,
    /// The time from which a lease that ran out by this clock is held by no node that lives.
    trusted_from: Option<Instant>,
    lease: Duration,
}

impl Clock {
    /// Gives every node that lives one lease of time to renew what it holds.
    fn distrust(&mut self) {
        self.trusted_from = Some(Instant::now() + self.lease);
    }
}

#[derive(Clone)]
struct Hang {
    since: Instant,
    reason: Arc<str>,
}

/// The proofs needed before a store that was not ready counts as ready again. Neither a read nor a heartbeat shows that
/// orders can be stored.
#[derive(Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each doubt is cleared by evidence of its own"
)]
struct Doubt {
    /// A write as accept makes it has to go through, rolled back.
    write: bool,
    /// Something has to be committed: a commit hung.
    commit: bool,
    /// The disk was full: the write has to take up room.
    full: bool,
    /// The server was not reached.
    away: bool,
    /// The server answers, and has refused to store.
    refused: bool,
}

impl State {
    pub fn new() -> State {
        State {
            health: Health::new(),
            doubt: Mutex::default(),
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

    /// Notes that the database carried out a statement.
    pub fn works(&self) {
        self.doubt().away = false;
        self.used.notify_waiters();
    }

    /// Resolves with the next statement that is carried out.
    pub async fn used(&self) {
        self.used.notified().await;
    }

    /// Notes that a statement that stores was answered. While one hangs that shows nothing: it may have found nothing to store.
    pub fn stored(&self) {
        let mut doubt = self.doubt();
        if self.hang.borrow().is_none() {
            doubt.commit = false;
            self.judge(*doubt);
        }
    }

    /// Notes that a commit of the probe's came back. While commits hung no node could renew its leases.
    pub fn commits(&self) {
        let mut doubt = self.doubt();
        doubt.commit = false;
        if self.hang.borrow().is_some() {
            // First: callers go on as soon as the hang is over.
            self.clock().distrust();
            self.hang.send_replace(None);
        }
        self.judge(*doubt);
    }

    /// Reports whether a commit is to come back before the store counts as ready.
    pub fn doubts_commits(&self) -> bool {
        self.doubt().commit
    }

    /// Notes that a statement that stores hangs. More of them would only hang as well, each with a connection of the server's.
    pub fn hangs(&self, reason: &str) {
        tracing::debug!(reason, "a statement that stores hangs");
        let mut doubt = self.doubt();
        doubt.commit = true;
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
            self.fails(&mut doubt, HANGS);
        }
    }

    /// Notes why statements that store hang: no standby has their commits.
    pub fn waits_for_standby(&self) {
        let mut doubt = self.doubt();
        doubt.refused = true;
        let news = self
            .hang_reason()
            .is_some_and(|reason| &*reason != WAITS_FOR_STANDBY);
        if news {
            tracing::warn!(
                "{WAITS_FOR_STANDBY}: nothing is accepted, started or settled until it confirms them"
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

    /// Waits until something may be stored, for a short while. Fails while a statement that stores hangs.
    pub async fn may_store(&self) -> Result<(), Failure> {
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
            Some(reason) => Err(Failure::Unavailable(reason)),
            None => Ok(()),
        }
    }

    /// Notes that a write as accept makes it went through.
    pub fn can_write(&self) {
        let mut doubt = self.doubt();
        doubt.write = false;
        doubt.full = false;
        doubt.refused = false;
        self.judge(*doubt);
    }

    /// Notes that such a write did not go through.
    pub fn cannot_write(&self, reason: &str) {
        let mut doubt = self.doubt();
        doubt.write = true;
        doubt.refused = true;
        self.health.fails(reason);
    }

    /// Returns why no order is to be started: the server is there and stores nothing, so an attempt would have no end.
    pub fn refuses_to_store(&self) -> Option<String> {
        let doubt = *self.doubt();
        match self.health.get() {
            StoreHealth::NotReady(reason) if doubt.refused && !doubt.away => Some(reason),
            StoreHealth::NotReady(_) | StoreHealth::Ready => None,
        }
    }

    /// Resolves when there is doubt whether orders can be stored.
    pub async fn doubted(&self) {
        self.doubted.notified().await;
    }

    pub fn was_full(&self) -> bool {
        self.doubt().full
    }

    pub fn is_away(&self) -> bool {
        self.doubt().away
    }

    pub fn failed(&self, failure: &Failure) {
        let mut doubt = self.doubt();
        match failure {
            Failure::DiskFull => {
                doubt.full = true;
                doubt.refused = true;
                self.fails(&mut doubt, "the disk is full");
            }
            Failure::Hung(text) => {
                doubt.commit = true;
                self.fails(&mut doubt, text);
            }
            Failure::Unavailable(text)
            | Failure::Refused(text)
            | Failure::Unsuitable(text)
            | Failure::Unknown(text) => {
                doubt.away = true;
                self.fails(&mut doubt, text);
            }
            Failure::ReadOnly(text) => {
                doubt.refused = true;
                self.fails(&mut doubt, text);
            }
            // May be of one call or one row: a probe finds out.
            Failure::TimedOut(_)
            | Failure::Forbidden { .. }
            | Failure::Rejected { .. }
            | Failure::Unexpected { .. } => self.doubted.notify_one(),
            // An epoch begins, and the statement is sent again.
            Failure::OtherServer(_) | Failure::Again(_) | Failure::Unreadable(_) | Failure::Closed => {}
        }
    }

    fn fails(&self, doubt: &mut Doubt, reason: &str) {
        doubt.write = true;
        self.health.fails(reason);
        self.doubted.notify_one();
    }

    fn judge(&self, doubt: Doubt) {
        if !doubt.write && !doubt.commit {
            self.health.works();
        }
    }

    /// Notes which run of a server answers a heartbeat whose node holds its orders for `lease`.
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

    /// Notes which run of a server answers, where a heartbeat was answered before.
    pub fn server_answers_again(&self, run: &str) {
        let known = {
            let clock = self.clock();
            clock.run.is_some().then_some(clock.lease)
        };
        if let Some(lease) = known {
            self.server_answers(run, lease);
        }
    }

    /// Reports whether leases that have run out may still be held: by the clock of a new server, which may be ahead of the clock
    /// by which they were taken, or because no node could renew them while commits hung. One lease later all are renewed.
    pub fn leases_may_be_held(&self) -> bool {
        let is_hanging = self.hang.borrow().is_some();
        is_hanging
            || self
                .clock()
                .trusted_from
                .is_some_and(|from| Instant::now() < from)
    }

    /// Fails while it is unknown which nodes live: they may all seem dead.
    pub fn require_known_nodes(&self) -> Result<(), Failure> {
        if self.leases_may_be_held() {
            let text = "the database server changed or hung: the nodes that live are known once they have renewed their leases";
            return Err(Failure::Unavailable(text.into()));
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

    /// The schema is one that this binary must not touch: the process is to end.
    pub fn break_down(&self, reason: &str) {
        self.health.break_down(reason);
    }

    pub async fn broken(&self) -> String {
        self.health.broken().await
    }

    pub fn weaknesses(&self) -> Vec<String> {
        self.known_weaknesses().clone()
    }

    /// Notes what a commit is worth under the settings of the database, and logs the weaknesses when they change. A cluster
    /// manager that finds no standby any more empties the setting that asks for one.
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
                tracing::warn!("orders may be lost in a crash of the database: {weakness}");
            }
            *known = found;
        }
    }

    fn known_weaknesses(&self) -> MutexGuard<'_, Vec<String>> {
        self.weaknesses
            .lock()
            .expect("no code panics while it holds this lock")
    }

    fn doubt(&self) -> MutexGuard<'_, Doubt> {
        self.doubt
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
