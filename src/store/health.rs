//! The last known health of a store. All parts of a driver update it; reading it costs no query.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;

/// Reason while a storing statement hangs.
pub const HANGS: &str = "a statement that stores is not answered";
/// Reason while commits wait for a standby that does not confirm them.
pub const WAITS_FOR_STANDBY: &str = "commits wait for the synchronous standby";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    Ready,
    /// Orders cannot be stored now, for this reason.
    NotReady(String),
}

impl StoreHealth {
    /// Returns why nothing can be stored, in words without the database's message, which is only for the log.
    pub fn public_reason(&self) -> Option<&'static str> {
        match self {
            StoreHealth::Ready => None,
            StoreHealth::NotReady(reason) => Some(
                [HANGS, WAITS_FOR_STANDBY]
                    .into_iter()
                    .find(|known| known == reason)
                    .unwrap_or("orders cannot be stored; the log says why"),
            ),
        }
    }
}

pub(super) struct Health {
    known: Mutex<StoreHealth>,
    broken: watch::Sender<Option<String>>,
}

impl Health {
    pub fn new() -> Health {
        Health {
            known: Mutex::new(StoreHealth::Ready),
            broken: watch::Sender::new(None),
        }
    }

    pub fn get(&self) -> StoreHealth {
        self.known().clone()
    }

    /// Records a success: the store is ready, unless it is broken.
    pub fn works(&self) {
        let mut known = self.known();
        if self.broken.borrow().is_none() {
            set(&mut known, StoreHealth::Ready);
        }
    }

    pub fn fails(&self, reason: &str) {
        set(&mut self.known(), StoreHealth::NotReady(reason.to_owned()));
    }

    pub fn closed(&self) {
        *self.known() = StoreHealth::NotReady("the store is closed".to_owned());
    }

    /// Declares the store broken: nothing is stored from now on, and the process must end.
    pub fn break_down(&self, reason: &str) {
        // The lock is held until `broken` is set, so that `works` cannot make the store ready in between.
        let mut known = self.known();
        set(&mut known, StoreHealth::NotReady(reason.to_owned()));
        self.broken.send_if_modified(|broken| {
            let first = broken.is_none();
            if first {
                *broken = Some(reason.to_owned());
            }
            first
        });
    }

    pub fn broken_reason(&self) -> Option<String> {
        self.broken.borrow().clone()
    }

    pub async fn broken(&self) -> String {
        let mut broken = self.broken.subscribe();
        let reason = broken
            .wait_for(Option::is_some)
            .await
            .expect("`self` owns the sender");
        reason.clone().unwrap_or_default()
    }

    fn known(&self) -> MutexGuard<'_, StoreHealth> {
        self.known
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

/// Sets the health and logs each change once.
fn set(known: &mut StoreHealth, health: StoreHealth) {
    if *known != health {
        match (&*known, &health) {
            (_, StoreHealth::Ready) => tracing::info!("the store can be written again"),
            (StoreHealth::Ready, StoreHealth::NotReady(reason)) => {
                tracing::warn!(
                    reason,
                    "the store cannot be written; `orderly doctor` says what to do"
                );
            }
            // Another reason for the same state is not worth a warning.
            (StoreHealth::NotReady(_), StoreHealth::NotReady(reason)) => {
                tracing::debug!(reason, "the store still cannot be written");
            }
        }
        *known = health;
    }
}
