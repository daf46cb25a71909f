//! The attempts that run on this node, and until when this node may believe in their leases.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lease::{Lease, LeaseKey, NodeId};
use crate::order::OrderId;

#[derive(Default)]
pub(super) struct Running {
    /// At most one per slot. An order that was given back and claimed again replaces its older attempt.
    attempts: Mutex<HashMap<OrderId, Attempt>>,
}

struct Attempt {
    token: u64,
    suspect: bool,
    /// By this node's monotonic clock, counted from before the store was asked: no later than the store's own.
    expires: Instant,
    lost: CancellationToken,
}

impl Running {
    /// The token returned is cancelled when the lease is lost.
    pub fn begin(&self, lease: &Lease, expires: Instant) -> CancellationToken {
        let lost = CancellationToken::new();
        let attempt = Attempt {
            token: lease.token,
            suspect: lease.suspect,
            expires,
            lost: lost.clone(),
        };
        if let Some(older) = self.attempts().insert(lease.order.order_id, attempt) {
            older.lost.cancel();
        }
        lost
    }

    pub fn end(&self, key: LeaseKey) {
        let mut attempts = self.attempts();
        if attempts
            .get(&key.order_id)
            .is_some_and(|attempt| attempt.token == key.token)
        {
            attempts.remove(&key.order_id);
        }
    }

    pub fn keys(&self, node: NodeId) -> Vec<LeaseKey> {
        let mut keys: Vec<LeaseKey> = self
            .attempts()
            .iter()
            .map(|(order_id, attempt)| LeaseKey {
                order_id: *order_id,
                token: attempt.token,
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
        let mut attempts = self.attempts();
        for key in keys {
            if let Some(attempt) = attempts.get_mut(&key.order_id)
                && attempt.token == key.token
            {
                if lost.contains(key) {
                    attempt.lost.cancel();
                } else {
                    attempt.expires = expires;
                }
            }
        }
    }

    /// Gives up the attempts whose leases this node could not renew in time; answers how many.
    pub fn give_up_expired(&self, now: Instant) -> usize {
        let attempts = self.attempts();
        let expired = attempts.values().filter(|attempt| attempt.expires <= now);
        expired
            .filter(|attempt| !attempt.lost.is_cancelled())
            .map(|attempt| attempt.lost.cancel())
            .count()
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<OrderId, Attempt>> {
        self.attempts
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
