//! Orders that were given back because nobody was there to process them. Where somebody was there for others since, and
//! again nobody for the same order, it may be that order which brings it about: then its attempts count, or it would never
//! end.

use std::collections::HashMap;

use crate::order::OrderId;

/// Most that are remembered: more than are given back while a breaker opens, with any sensible number of slots. Beyond it
/// all are forgotten, which gives each of them one more time.
const REMEMBERED_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct Forgiven {
    /// Good answers so far.
    good: u64,
    /// How many there were when the order was given back.
    orders: HashMap<OrderId, u64>,
}

impl Forgiven {
    pub fn good(&mut self, order: OrderId) {
        self.good += 1;
        self.orders.remove(&order);
    }

    /// Whether an order may be given back, though nobody was there for it before.
    pub fn may_go_back(&mut self, order: OrderId) -> bool {
        if self.orders.get(&order).is_some_and(|good| *good < self.good) {
            return false;
        }
        if self.orders.len() >= REMEMBERED_MAX {
            self.orders.clear();
        }
        self.orders.insert(order, self.good);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: OrderId = OrderId(1);
    const OTHER: OrderId = OrderId(2);

    #[test]
    fn while_nobody_is_there_for_anybody_no_attempt_counts() {
        let mut forgiven = Forgiven::default();
        for _ in 0..100 {
            assert!(forgiven.may_go_back(ORDER) && forgiven.may_go_back(OTHER));
        }
    }

    #[test]
    fn an_order_for_which_nobody_is_there_while_others_are_served_counts() {
        let mut forgiven = Forgiven::default();
        assert!(forgiven.may_go_back(ORDER));
        forgiven.good(OTHER);
        assert!(!forgiven.may_go_back(ORDER));
        assert!(!forgiven.may_go_back(ORDER));
        forgiven.good(ORDER);
        assert!(forgiven.may_go_back(ORDER));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut forgiven = Forgiven::default();
        for id in 0..10_000 {
            assert!(forgiven.may_go_back(OrderId(id)));
        }
        assert!(forgiven.orders.len() <= REMEMBERED_MAX);
    }
}
