//! The attempts that run on this node, and until when this node may believe in their leases.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::lease::{Lease, LeaseKey, NodeId};
use crate::order::OrderId;

#[derive(Default)]
pub(super) struct Running {
    /// At most two per slot: one that runs, and one whose result waits to be stored. An order that was given back and claimed again replaces its older attempt.
    attempts: Mutex<HashMap<OrderId, Attempt>>,
}

struct Attempt {
    fence: u64,
    suspect: bool,
    /// No later heartbeat keeps the lease.
    renewed_until: Instant,
    belief: watch::Sender<Belief>,
}

#[derive(Clone, Copy)]
enum Belief {
    /// By this node's monotonic clock, counted from before the store was asked: no later than the store's own.
    Until(Instant),
    /// The store said that the lease is no longer ours.
    Lost,
}

/// An attempt's view of its lease.
pub(super) struct Hold {
    belief: watch::Receiver<Belief>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldEnd {
    /// The order was cancelled or given back.
    Lost,
    /// It could not be renewed in time.
    RanOut,
}

impl Running {
    /// The attempt takes `time_max` at most. After that its lease is renewed no more: what is left of it is for storing the
    /// result.
    pub fn begin(&self, lease: &Lease, expires: Instant, time_max: Duration) -> Hold {
        let (belief, hold) = watch::channel(Belief::Until(expires));
        let attempt = Attempt {
            fence: lease.fence,
            suspect: lease.suspect,
            renewed_until: Instant::now() + time_max,
            belief,
        };
        // An older attempt at the same order hears of it by the end of its channel.
        self.attempts().insert(lease.order.order_id, attempt);
        Hold { belief: hold }
    }

    pub fn end(&self, key: LeaseKey) {
        let mut attempts = self.attempts();
        if attempts
            .get(&key.order_id)
            .is_some_and(|attempt| attempt.fence == key.fence)
        {
            attempts.remove(&key.order_id);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.attempts().is_empty()
    }

    /// The leases to renew: this node still believes in them, and their attempts may still run. One that ran out is not
    /// renewed: its attempt is being given up, and the order would wait for nobody.
    pub fn keys(&self, node: NodeId, now: Instant) -> Vec<LeaseKey> {
        let mut keys: Vec<LeaseKey> = self
            .attempts()
            .iter()
            .filter(|(_, attempt)| now < attempt.renewed_until && attempt.believes(now))
            .map(|(order_id, attempt)| LeaseKey {
                order_id: *order_id,
                fence: attempt.fence,
                node,
            })
            .collect();
        // Rows are touched in the order of their keys, so that two nodes never wait for each other.
        keys.sort_unstable_by_key(|key| key.order_id);
        keys
    }

    pub fn has_suspect(&self) -> bool {
        self.attempts().values().any(|attempt| attempt.suspect)
    }

    pub fn renewed(&self, keys: &[LeaseKey], lost: &[LeaseKey], expires: Instant) {
        let attempts = self.attempts();
        for key in keys {
            if let Some(attempt) = attempts.get(&key.order_id)
                && attempt.fence == key.fence
            {
                attempt.belief.send_replace(if lost.contains(key) {
                    Belief::Lost
                } else {
                    Belief::Until(expires)
                });
            }
        }
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<OrderId, Attempt>> {
        self.attempts
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

impl Attempt {
    fn believes(&self, now: Instant) -> bool {
        match *self.belief.borrow() {
            Belief::Until(expires) => now < expires,
            Belief::Lost => false,
        }
    }
}

impl Hold {
    /// What [`Hold::end`] would resolve to at once.
    pub fn ended(&self) -> Option<HoldEnd> {
        match *self.belief.borrow() {
            Belief::Until(expires) => (expires <= Instant::now()).then_some(HoldEnd::RanOut),
            Belief::Lost => Some(HoldEnd::Lost),
        }
    }

    /// Resolves when this node may no longer believe in the lease, at the moment it runs out by this node's clock:
    /// nothing has to come round and notice, so a process that stood still for longer than the lease does not go on
    /// with the attempt. Cancel safe.
    pub async fn end(&mut self) -> HoldEnd {
        loop {
            let expires = match *self.belief.borrow_and_update() {
                Belief::Until(expires) => expires,
                Belief::Lost => return HoldEnd::Lost,
            };
            // The timer alone may be late by a turn of the runtime.
            if expires <= Instant::now() {
                return HoldEnd::RanOut;
            }
            tokio::select! {
                () = sleep_until(expires) => {}
                changed = self.belief.changed() => if changed.is_err() {
                    return HoldEnd::Lost;
                },
            }
        }
    }
}
