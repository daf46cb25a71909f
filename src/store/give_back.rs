//! Taking back orders whose leases ran out: what a lost lease makes of the order, and when the order is poison. Drivers find the
//! leases.

use std::time::Duration;

use super::RefusedOrder;
use super::settle::End;
use crate::event::EventKind;
use crate::lease::{LeaseKey, NodeId};
use crate::order::OrderId;

/// Most orders one call of `redrive_matching` or `give_back_expired` touches.
pub const SWEEP_ORDERS_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug)]
pub struct GiveBack {
    /// The node that asks: certainly alive, whatever its last heartbeat says.
    pub node: NodeId,
    /// Leases lost to dead nodes before an order is Failed as poison.
    pub crashes_max: u32,
    /// The last order that the call before looked at; `None` begins a sweep.
    pub after: Option<OrderId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenBack {
    /// Back to Pending.
    pub pending: usize,
    /// Failed as poison.
    pub poisoned: usize,
    /// Orders that the store refused to take back; they stay Processing, without a lease.
    pub refused: Vec<RefusedOrder>,
    /// The place where the next call of the sweep begins; `None` when there are no more.
    pub next: Option<OrderId>,
}

/// A lease that ran out, or whose node is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct LostLease {
    pub key: LeaseKey,
    /// An external worker held it.
    pub outside: bool,
    /// The node that claimed is dead.
    pub node_died: bool,
    /// Leases of the order that were lost to dead nodes before.
    pub crashes: u32,
}

impl LostLease {
    /// Ends the attempt: back to Pending, or Failed when the order has crashed `crashes_max` holders. Whether an external worker
    /// lives is unknown; one that sent no result counts as dead.
    pub fn end(&self, crashes_max: u32) -> End {
        let node = self.key.node;
        let crashed = self.outside || self.node_died;
        let so_far = self.crashes + u32::from(crashed);
        let is_poison = crashed && so_far >= crashes_max;
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
                format!("poison: {so_far} nodes or workers fell silent while they processed this order")
            } else if self.outside {
                "no result came from outside before the lease ran out".to_owned()
            } else if self.node_died {
                format!("node {node} died while it held the lease")
            } else {
                format!("node {node} let the lease run out")
            }),
            result: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::OrderStatus;

    fn end(outside: bool, node_died: bool, crashes: u32) -> End {
        let (order_id, fence, node) = (OrderId(1), 1, NodeId(7));
        let key = LeaseKey {
            order_id,
            fence,
            node,
        };
        LostLease {
            key,
            outside,
            node_died,
            crashes,
        }
        .end(3)
    }

    #[test]
    fn a_lost_lease_is_no_attempt_and_keeps_the_last_error() {
        for (outside, node_died) in [(false, false), (false, true), (true, false)] {
            let end = end(outside, node_died, 0);
            assert_eq!((end.status(), end.given_back), (OrderStatus::Pending, true));
            assert_eq!((end.crashed, end.last_error()), (outside || node_died, None));
        }
    }

    #[test]
    fn an_order_that_crashed_its_limit_of_holders_is_poison() {
        for (outside, node_died) in [(false, true), (true, false)] {
            assert_eq!(end(outside, node_died, 1).status(), OrderStatus::Pending);
            let poison = end(outside, node_died, 2);
            assert_eq!((poison.status(), poison.given_back), (OrderStatus::Failed, false));
            assert!(
                poison
                    .last_error()
                    .is_some_and(|error| error.contains("poison: 3 "))
            );
        }
        // A node that lives let the lease run out: no crash, however many there were.
        assert_eq!(end(false, false, 9).status(), OrderStatus::Pending);
    }
}
