//! Results whose answers were lost, so that they may be stored. When such a result is sent again and finds no lease,
//! the earlier send may have ended the attempt.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use crate::lease::{LeaseKey, NodeId};
use crate::order::OrderId;

/// The most results that are remembered, the latest ones: many times what a node processes at once. A forgotten
/// result counts as too late, like any other without a lease.
const REMEMBERED_MAX: usize = 16_384;

/// The attempt that a result ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub order_id: OrderId,
    pub fence: u64,
    /// The node that holds the lease. `None` for a result of an external worker, which counts only if the order was
    /// handed out.
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

/// The attempts whose results were sent and not answered.
#[derive(Default)]
pub(super) struct LostAnswers {
    lost: Mutex<Lost>,
}

#[derive(Default)]
struct Lost {
    /// The attempts, each with the number of its loss.
    keys: HashMap<Attempt, u64>,
    losses: u64,
}

impl LostAnswers {
    /// Remembers attempts whose results were not answered.
    pub fn remember(&self, keys: impl IntoIterator<Item = Attempt>) {
        let mut lost = self.lost();
        for key in keys {
            lost.losses += 1;
            let number = lost.losses;
            lost.keys.insert(key, number);
        }
        if lost.keys.len() > REMEMBERED_MAX {
            // Drops the older half, so that this happens rarely.
            let mut numbers: Vec<u64> = lost.keys.values().copied().collect();
            numbers.sort_unstable();
            let oldest = numbers[numbers.len() - REMEMBERED_MAX / 2];
            lost.keys.retain(|_, number| *number >= oldest);
        }
    }

    /// Reports whether an answer to this result was lost, and forgets it: now there is an answer.
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
        let lost_answers = LostAnswers::default();
        lost_answers.remember([key(1)]);
        assert!(!lost_answers.take(key(2)));
        assert!(lost_answers.take(key(1)));
        assert!(!lost_answers.take(key(1)));
    }

    #[test]
    fn old_losses_are_forgotten() {
        let lost_answers = LostAnswers::default();
        let last = REMEMBERED_MAX as u64;
        lost_answers.remember((0..=last).map(key));
        assert!(lost_answers.lost().keys.len() <= REMEMBERED_MAX);
        assert!(!lost_answers.take(key(0)));
        assert!(lost_answers.take(key(last)));
    }
}
