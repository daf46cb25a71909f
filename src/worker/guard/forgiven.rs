//! Orders that were given back because the service said that it cannot work. Where it worked for others since, and again
//! not for the same order, it is about that order: then its attempts count, or it would never end.

use std::collections::HashMap;

use crate::order::OrderId;

/// Most that are remembered: more than are given back while a breaker opens, with any sensible number of slots. Beyond it
/// all are forgotten, which gives each of them one more time.
const REMEMBERED_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct Forgiven {
    /// Good answers so far.
    good: u64,
    orders: HashMap<OrderId, Past>,
}

#[derive(Clone, Copy, Debug)]
struct Past {
    /// Number of good answers when the order was given back.
    good: u64,
    /// Number of times it was given back.
    times: u32,
}

impl Forgiven {
    pub fn good(&mut self, order: OrderId) {
        self.good += 1;
        self.orders.remove(&order);
    }

    /// Returns the number of times the order was given back, this time included; `None` where it may not be given back.
    pub fn go_back(&mut self, order: OrderId) -> Option<u32> {
        let past = self.orders.get(&order).copied();
        if past.is_some_and(|past| past.good < self.good) {
            return None;
        }
        if self.orders.len() >= REMEMBERED_MAX {
            self.orders.clear();
        }
        let times = past.map_or(1, |past| past.times.saturating_add(1));
        let good = self.good;
        self.orders.insert(order, Past { good, times });
        Some(times)
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
        for times in 1..100 {
            assert_eq!(forgiven.go_back(ORDER), Some(times));
            assert_eq!(forgiven.go_back(OTHER), Some(times));
        }
    }

    #[test]
    fn an_order_for_which_nobody_is_there_while_others_are_served_counts() {
        let mut forgiven = Forgiven::default();
        assert_eq!(forgiven.go_back(ORDER), Some(1));
        forgiven.good(OTHER);
        assert_eq!(forgiven.go_back(ORDER), None);
        assert_eq!(forgiven.go_back(ORDER), None);
        forgiven.good(ORDER);
        assert_eq!(forgiven.go_back(ORDER), Some(1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut forgiven = Forgiven::default();
        for id in 0..10_000 {
            assert_eq!(forgiven.go_back(OrderId(id)), Some(1));
        }
        assert!(forgiven.orders.len() <= REMEMBERED_MAX);
    }
}
