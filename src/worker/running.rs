//! Running attempts of this node, and how long their leases are valid here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::lease::{Lease, LeaseKey, NodeId};
use crate::order::OrderId;

#[derive(Default)]
pub(super) struct Running {
    /// Attempts by order, at most two per slot: a running one and one whose result is being stored. A new attempt replaces
    /// the older one.
    attempts: Mutex<HashMap<OrderId, Attempt>>,
}

struct Attempt {
    fence: u64,
    suspect: bool,
    /// Time from which heartbeats no longer renew the lease.
    renewed_until: Instant,
    validity: watch::Sender<Validity>,
}

#[derive(Clone, Copy)]
enum Validity {
    /// Expiry by this node's monotonic clock, counted from before the call: never later than the store's.
    Until(Instant),
    /// The store reported the lease as lost.
    Lost,
}

/// An attempt's view of its lease.
pub(super) struct Hold {
    validity: watch::Receiver<Validity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldEnd {
    /// The order was cancelled or given back.
    Lost,
    /// The lease could not be renewed in time.
    Expired,
}

impl Running {
    /// Starts an attempt of at most `time_max`. After that its lease is not renewed; the rest of it is for storing the
    /// result.
    pub fn begin(&self, lease: &Lease, expires: Instant, time_max: Duration) -> Hold {
        let (validity, hold) = watch::channel(Validity::Until(expires));
        let attempt = Attempt {
            fence: lease.fence,
            suspect: lease.suspect,
            renewed_until: Instant::now() + time_max,
            validity,
        };
        // An older attempt at the same order ends through its closed channel.
        self.attempts().insert(lease.order.order_id, attempt);
        Hold { validity: hold }
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

    /// Returns the leases to renew: still valid here, with attempts that may still run. An expired lease is not renewed,
    /// since its attempt is being abandoned and the order would be blocked.
    pub fn keys(&self, node: NodeId, now: Instant) -> Vec<LeaseKey> {
        let mut keys: Vec<LeaseKey> = self
            .attempts()
            .iter()
            .filter(|(_, attempt)| now < attempt.renewed_until && attempt.is_valid(now))
            .map(|(order_id, attempt)| LeaseKey {
                order_id: *order_id,
                fence: attempt.fence,
                node,
            })
            .collect();
        // Rows are locked in key order, so that nodes never deadlock.
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
                attempt.validity.send_replace(if lost.contains(key) {
                    Validity::Lost
                } else {
                    Validity::Until(expires)
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
    fn is_valid(&self, now: Instant) -> bool {
        match *self.validity.borrow() {
            Validity::Until(expires) => now < expires,
            Validity::Lost => false,
        }
    }
}

impl Hold {
    /// Returns the value of [`Hold::end`] if it would resolve at once.
    pub fn ended(&self) -> Option<HoldEnd> {
        match *self.validity.borrow() {
            Validity::Until(expires) => (expires <= Instant::now()).then_some(HoldEnd::Expired),
            Validity::Lost => Some(HoldEnd::Lost),
        }
    }

    /// Resolves when the lease is no longer valid, exactly when it expires by this node's clock: no other task has to
    /// notice, so a process suspended beyond its lease does not go on with the attempt. Cancel safe.
    pub async fn end(&mut self) -> HoldEnd {
        loop {
            let expires = match *self.validity.borrow_and_update() {
                Validity::Until(expires) => expires,
                Validity::Lost => return HoldEnd::Lost,
            };
            // The timer alone may be late by one runtime tick.
            if expires <= Instant::now() {
                return HoldEnd::Expired;
            }
            tokio::select! {
                () = sleep_until(expires) => {}
                changed = self.validity.changed() => if changed.is_err() {
                    return HoldEnd::Lost;
                },
            }
        }
    }
}
