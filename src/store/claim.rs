//! Claiming orders: the request, the answer, and the shares of the two lines. Drivers choose and start the orders.

use std::collections::HashSet;
use std::time::Duration;

use crate::lease::{Lease, NodeId, ProcessorKind};
use crate::order::OrderId;

/// Leases per claim, at most.
pub const CLAIM_ORDERS_MAX: usize = 256;
/// Lost leases that make an order a suspect. The partial indexes of both schemas use the same number.
pub const SUSPECT_CRASHES: u32 = 2;

#[derive(Clone, Copy, Debug)]
pub struct ClaimRequest {
    pub node: NodeId,
    pub orders_max: usize,
    /// Duration of the leases unless renewed.
    pub lease: Duration,
    /// Allows one suspect among the orders.
    pub suspect: bool,
    /// The processor of the orders; `None` for a processor that is part of the caller. A shared store grants nothing while a
    /// node with another processor is alive.
    pub processor: Option<ProcessorKind>,
}

impl ClaimRequest {
    /// Reports whether an external worker holds the leases, as with [`crate::store::Store::hold_external`].
    pub(super) fn is_external(&self) -> bool {
        self.processor.is_some_and(ProcessorKind::is_outside)
    }

    /// Reports whether this node passes the tokens on, so that others may settle the attempts.
    pub(super) fn hands_out(&self) -> bool {
        self.processor.is_some_and(ProcessorKind::hands_out)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// First attempts come first, in order of acceptance. For given orders: the order given.
    pub leases: Vec<Lease>,
    /// Time until the next order of the second line is due that such a claim may start. `None` if there is none, or if the queue
    /// is paused.
    pub next_due_in: Option<Duration>,
    /// No order of the store is Pending or Processing, on any node.
    pub idle: bool,
    /// Nothing starts on any node until the queue is resumed.
    pub paused: bool,
}

/// The orders that [`crate::store::Store::start`] considers: the first [`CLAIM_ORDERS_MAX`], each once, in the order given.
pub(super) fn distinct_given(order_ids: &[OrderId]) -> Vec<OrderId> {
    let mut seen = HashSet::new();
    let looked_at = order_ids.iter().take(CLAIM_ORDERS_MAX);
    looked_at.copied().filter(|id| seen.insert(*id)).collect()
}

/// Divides the places of a claim between the lines: half each while both have work; a short line leaves its places to the other.
/// `first` and `second` are the orders available in each line.
pub(super) fn share(places: usize, first: usize, second: usize, second_line_first: bool) -> (usize, usize) {
    let half = if second_line_first {
        places.div_ceil(2)
    } else {
        places / 2
    };
    let from_second = second.min(half.max(places.saturating_sub(first)));
    (first.min(places - from_second), from_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_get_places_while_both_have_work() {
        for places in 2..20 {
            for tie in [false, true] {
                let (first, second) = share(places, 100, 100, tie);
                assert_eq!(first + second, places);
                assert!(first > 0 && second > 0);
            }
        }
        assert_eq!(share(1, 5, 5, false), (1, 0));
        assert_eq!(share(1, 5, 5, true), (0, 1));
    }

    #[test]
    fn a_short_line_leaves_its_places_to_the_other() {
        for tie in [false, true] {
            assert_eq!(share(10, 2, 100, tie), (2, 8));
            assert_eq!(share(10, 100, 2, tie), (8, 2));
            assert_eq!(share(10, 0, 3, tie), (0, 3));
            assert_eq!(share(1, 0, 3, tie), (0, 1));
            assert_eq!(share(1, 3, 0, tie), (1, 0));
            assert_eq!(share(0, 3, 3, tie), (0, 0));
        }
    }

    #[test]
    fn postgres_divides_places_by_the_same_rule() {
        let choose = include_str!("postgres/choose.sql");
        let (_, rest) = choose
            .split_once("share as materialized (\n        select ")
            .unwrap();
        let (rule, _) = rest.split_once(" as second from lines").unwrap();
        let rule = rule.replace("least(", "min(").replace("greatest(", "max(");
        let numbers = "select ?1 as places, ?2 as first, ?3 as second, ?4 as second_first";
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let mut from_second = connection
            .prepare(&format!("select {rule} from ({numbers})"))
            .unwrap();
        for number in 0..6 * 6 * 6 * 2 {
            let (places, first, second) = (number / 72, number / 12 % 6, number / 2 % 6);
            let tie = number % 2 == 1;
            let in_postgres = from_second.query_row((places, first, second, tie), |row| row.get(0));
            let (from_first, expected) = share(places, first, second, tie);
            assert_eq!(in_postgres, Ok(expected));
            assert_eq!(from_first, first.min(places - expected));
        }
    }
}
