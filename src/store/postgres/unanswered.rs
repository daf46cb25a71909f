//! Results that were sent and whose answers were lost: stored or not. Who sends one again and finds no lease may have ended
//! the attempt himself, the time before.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use crate::lease::{LeaseKey, NodeId};
use crate::order::OrderId;

/// Most that are remembered, the latest: many times what a node processes at once. Of one that was forgotten it is said
/// that it came too late, as of any other whose lease is gone.
const REMEMBERED_MAX: usize = 16_384;

/// The attempt that a result ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub order_id: OrderId,
    pub fence: u64,
    /// The node that holds the lease. `None`: an external worker brings the result, which counts where the order was handed out.
    pub node: Option<NodeId>,
}

impl From<LeaseKey> for Attempt {
    fn from(key: LeaseKey) -> Attempt {
        Attempt {
            order_id: key.order_id,
            fence: key.fence,
            node: Some(key.node),
        }
    }
}

#[derive(Default)]
pub(super) struct Unanswered {
    lost: Mutex<Lost>,
}

#[derive(Default)]
struct Lost {
    /// Each with the number of its loss.
    keys: HashMap<Attempt, u64>,
    losses: u64,
}

impl Unanswered {
    pub fn remember(&self, keys: impl IntoIterator<Item = Attempt>) {
        let mut lost = self.lost();
        for key in keys {
            lost.losses += 1;
            let number = lost.losses;
            lost.keys.insert(key, number);
        }
        if lost.keys.len() > REMEMBERED_MAX {
            // The older half goes, so that this is done seldom.
            let mut numbers: Vec<u64> = lost.keys.values().copied().collect();
            numbers.sort_unstable();
            let oldest = numbers[numbers.len() - REMEMBERED_MAX / 2];
            lost.keys.retain(|_, number| *number >= oldest);
        }
    }

    /// Whether the answer to this result was lost; forgets it, now that there is one.
    pub fn take(&self, key: Attempt) -> bool {
        let mut lost = self.lost();
        !lost.keys.is_empty() && lost.keys.remove(&key).is_some()
    }

    fn lost(&self) -> MutexGuard<'_, Lost> {
        self.lost.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fence: u64) -> Attempt {
        Attempt {
            order_id: OrderId(1),
            fence,
            node: Some(NodeId(1)),
        }
    }

    #[test]
    fn a_result_is_remembered_until_it_is_answered() {
        let unanswered = Unanswered::default();
        unanswered.remember([key(1)]);
        assert!(!unanswered.take(key(2)));
        assert!(unanswered.take(key(1)));
        assert!(!unanswered.take(key(1)));
    }

    #[test]
    fn what_nobody_asks_for_any_more_is_forgotten_in_the_end() {
        let unanswered = Unanswered::default();
        let last = REMEMBERED_MAX as u64;
        unanswered.remember((0..=last).map(key));
        assert!(unanswered.lost().keys.len() <= REMEMBERED_MAX);
        assert!(!unanswered.take(key(0)));
        assert!(unanswered.take(key(last)));
    }
}
