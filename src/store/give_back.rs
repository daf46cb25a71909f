//! Taking back orders whose leases expired: the effect of a lost lease, and the rule for poisoned orders. Drivers find the leases.

use std::time::Duration;

use super::RefusedOrder;
use super::settle::End;
use crate::event::EventKind;
use crate::lease::{LeaseKey, NodeId};
use crate::order::OrderId;

/// Orders per call of `redrive_matching` or `give_back_expired`, at most.
pub const SWEEP_ORDERS_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug)]
pub struct GiveBack {
    /// The node that makes the call. It counts as alive even if its heartbeat has expired.
    pub node: NodeId,
    /// Leases lost with their holders at which an order is poisoned.
    pub crashes_max: u32,
    /// [`GivenBack::next`] of the previous call; `None` begins a sweep.
    pub after: Option<OrderId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenBack {
    /// Number of orders that went back to Pending.
    pub pending: usize,
    /// Number of orders that Failed as poisoned.
    pub poisoned: usize,
    /// Orders that the database refused to take back. They stay Processing, with an expired lease.
    pub refused: Vec<RefusedOrder>,
    /// Start of the next call of this sweep; `None` at its end.
    pub next: Option<OrderId>,
}

/// A lease that expired or whose node is dead.
#[derive(Clone, Copy, Debug)]
pub(super) struct LostLease {
    pub key: LeaseKey,
    /// An external worker held it.
    pub external: bool,
    /// The node that claimed the order is dead.
    pub node_died: bool,
    /// Earlier leases of the order that were lost with their holders.
    pub crashes: u32,
}

impl LostLease {
    /// The end of the attempt: the order goes back to Pending, or Failed once `crashes_max` leases were lost with their holders. An
    /// external worker that sent no result counts as dead.
    pub fn end(&self, crashes_max: u32) -> End {
        let node = self.key.node;
        let crashed = self.external || self.node_died;
        let crashes_so_far = self.crashes + u32::from(crashed);
        let is_poison = crashed && crashes_so_far >= crashes_max;
        End {
            kind: if is_poison {
                EventKind::Failed
            } else {
                EventKind::LeaseLost
            },
            given_back: !is_poison,
            crashed,
            due_in: (!is_poison).then_some(Duration::ZERO),
            error: Some(if is_poison {
                format!(
                    "poison: {crashes_so_far} nodes or workers fell silent while they processed this order"
                )
            } else if self.external {
                "the external worker sent no result before the lease expired".to_owned()
            } else if self.node_died {
                format!("node {node} died while it held the lease")
            } else {
                format!("node {node} did not renew the lease in time")
            }),
            result: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::OrderStatus;

    fn end(external: bool, node_died: bool, crashes: u32) -> End {
        let (order_id, fence, node) = (OrderId(1), 1, NodeId(7));
        let key = LeaseKey {
            order_id,
            fence,
            node,
        };
        LostLease {
            key,
            external,
            node_died,
            crashes,
        }
        .end(3)
    }

    #[test]
    fn a_lost_lease_does_not_count_as_an_attempt_and_keeps_the_last_error() {
        for (external, node_died) in [(false, false), (false, true), (true, false)] {
            let end = end(external, node_died, 0);
            assert_eq!((end.status(), end.given_back), (OrderStatus::Pending, true));
            assert_eq!((end.crashed, end.last_error()), (external || node_died, None));
        }
    }

    #[test]
    fn an_order_that_reached_the_crash_limit_is_poisoned() {
        for (external, node_died) in [(false, true), (true, false)] {
            assert_eq!(end(external, node_died, 1).status(), OrderStatus::Pending);
            let poison = end(external, node_died, 2);
            assert_eq!((poison.status(), poison.given_back), (OrderStatus::Failed, false));
            assert!(
                poison
                    .last_error()
                    .is_some_and(|error| error.contains("poison: 3 "))
            );
        }
        // A live node that lets a lease expire is no crash, and poisons nothing.
        assert_eq!(end(false, false, 9).status(), OrderStatus::Pending);
    }
}
