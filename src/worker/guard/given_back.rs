//! Orders given back because the service said that it cannot work. If it has since worked for other orders but fails
//! again for the same one, the order is to blame: its attempts then count, or it would never end.

use std::collections::HashMap;

use crate::order::OrderId;

/// Maximum number of orders to remember: more than are given back while a breaker opens, with any sensible number of
/// slots. Beyond that all are forgotten, which allows each one more time.
const REMEMBERED_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct GivenBackOrders {
    /// Number of good answers so far.
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

impl GivenBackOrders {
    pub fn good(&mut self, order: OrderId) {
        self.good += 1;
        self.orders.remove(&order);
    }

    /// Returns how many times the order was given back, including this one; `None` if its attempts now count.
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
    fn no_attempt_counts_while_the_service_is_down_for_all() {
        let mut given_back = GivenBackOrders::default();
        for times in 1..100 {
            assert_eq!(given_back.go_back(ORDER), Some(times));
            assert_eq!(given_back.go_back(OTHER), Some(times));
        }
    }

    #[test]
    fn an_order_that_fails_while_others_are_served_counts() {
        let mut given_back = GivenBackOrders::default();
        assert_eq!(given_back.go_back(ORDER), Some(1));
        given_back.good(OTHER);
        assert_eq!(given_back.go_back(ORDER), None);
        assert_eq!(given_back.go_back(ORDER), None);
        given_back.good(ORDER);
        assert_eq!(given_back.go_back(ORDER), Some(1));
    }

    #[test]
    fn the_number_of_remembered_orders_is_bounded() {
        let mut given_back = GivenBackOrders::default();
        for id in 0..10_000 {
            assert_eq!(given_back.go_back(OrderId(id)), Some(1));
        }
        assert!(given_back.orders.len() <= REMEMBERED_MAX);
    }
}
