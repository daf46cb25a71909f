//! The store's health and settings, as the last answers of the database tell.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use super::failure::Failure;
use crate::store::StoreHealth;
use crate::store::health::Health;

pub(super) struct State {
    health: Health,
    doubt: Mutex<Doubt>,
    doubted: Notify,
    weaknesses: Mutex<Vec<String>>,
    used: Notify,
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
            weaknesses: Mutex::default(),
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

    /// Notes that the database stored something.
    pub fn stored(&self) {
        let mut doubt = self.doubt();
        doubt.commit = false;
        self.judge(*doubt);
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
            Failure::Again(_) | Failure::Unreadable(_) | Failure::Closed => {}
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

    /// Logs the weaknesses when they change.
    pub fn found_weaknesses(&self, found: Vec<String>) {
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
