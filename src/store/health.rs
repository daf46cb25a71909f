//! What is known of a store's state without asking it; shared by the parts of a driver and read by whoever asks.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;

/// The reason while a statement that stores is not answered.
pub const HANGS: &str = "a statement that stores is not answered";
/// The reason while commits wait for a standby that does not confirm them.
pub const WAITS_FOR_STANDBY: &str = "commits wait for the synchronous standby";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    Ready,
    /// Cannot store at the moment, and why.
    NotReady(String),
}

impl StoreHealth {
    /// Returns why nothing can be stored, in words that everybody may read: what the database said is for the log alone.
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

    /// The store did what it was asked, so it can.
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

    /// Nothing is stored from here on; the process is to end.
    pub fn break_down(&self, reason: &str) {
        // Held, so that nobody finds that it works in between.
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
            .expect("the sender lives as long as the state that is borrowed here");
        reason.clone().unwrap_or_default()
    }

    fn known(&self) -> MutexGuard<'_, StoreHealth> {
        self.known
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

/// Says it in the log when it changes, however many calls go the same way.
fn set(known: &mut StoreHealth, health: StoreHealth) {
    if *known != health {
        match (&*known, &health) {
            (_, StoreHealth::Ready) => tracing::info!("the store can be written again"),
            (StoreHealth::Ready, StoreHealth::NotReady(reason)) => {
                tracing::warn!(reason, "the store cannot be written");
            }
            // Another reason for the same is no news for whoever watches.
            (StoreHealth::NotReady(_), StoreHealth::NotReady(reason)) => {
                tracing::debug!(reason, "the store still cannot be written");
            }
        }
        *known = health;
    }
}
