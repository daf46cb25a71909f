//! Vitals: what tells whether orders flow and what holds them up, read together at a cost that does not grow with the number of
//! orders. Judging them is left to `diagnosis`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use super::{LockHolder, QueueState};
use crate::lease::{NO_ANSWER, NodeId};
use crate::metrics::{ACTIVITY_COUNTS, AttemptLabels, AttemptResult, Metrics, RequestLabels};
use crate::order::{OrderId, OrderStatus};
use crate::time::Timestamp;

/// The span that [`Vitals::activity`] adds up.
pub const ACTIVITY_WINDOW: Duration = Duration::from_mins(5);
/// Time for which the store keeps what happened in a minute.
pub const ACTIVITY_KEPT: Duration = Duration::from_hours(24);
/// Most recently Failed orders whose reasons are read.
pub const FAILURES_LOOKED_AT_MAX: usize = 200;
/// Orders of the second line whose reasons are read, the next ones due.
pub const RETRYING_LOOKED_AT_MAX: usize = 200;
/// Most groups of failures, blocking orders, suspects and sessions that are named.
pub const NAMED_MAX: usize = 5;
/// Age of a transaction from which on it is named: it keeps the database from cleaning up after itself.
pub const NAMED_TRANSACTION: Duration = Duration::from_mins(1);
/// Wait from which on the store looks whether the orders at the heads of the lines are locked.
pub const HEADS_LOOKED_AT_FROM: Duration = Duration::from_secs(5);
/// Time for which others have waited for a transaction's locks from which on it is named.
pub const BLOCKS_OTHERS: Duration = Duration::from_secs(2);

/// Counts of what happened to orders in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    pub accepted: u64,
    /// Attempts that started.
    pub started: u64,
    pub completed: u64,
    /// Attempts that failed and are followed by another one.
    pub retried: u64,
    /// Orders that failed for good.
    pub failed: u64,
    pub leases_lost: u64,
    /// Requests for leases that were refused for their key.
    pub leases_refused: u64,
}

impl Activity {
    /// Returns the counts in the order of their columns.
    pub fn to_array(self) -> [u64; ACTIVITY_COUNTS] {
        [
            self.accepted,
            self.started,
            self.completed,
            self.retried,
            self.failed,
            self.leases_lost,
            self.leases_refused,
        ]
    }

    pub fn from_array(counts: [u64; ACTIVITY_COUNTS]) -> Activity {
        let [
            accepted,
            started,
            completed,
            retried,
            failed,
            leases_lost,
            leases_refused,
        ] = counts;
        Activity {
            accepted,
            started,
            completed,
            retried,
            failed,
            leases_lost,
            leases_refused,
        }
    }

    /// Returns the growth since `earlier`, an earlier reading of the same counts.
    #[must_use]
    pub fn since(self, earlier: Activity) -> Activity {
        let earlier = earlier.to_array();
        let mut counts = self.to_array();
        for (count, earlier) in counts.iter_mut().zip(earlier) {
            *count = count.saturating_sub(earlier);
        }
        Activity::from_array(counts)
    }

    /// Adds the counts of others.
    #[must_use]
    pub fn plus(self, other: Activity) -> Activity {
        let other = other.to_array();
        let mut counts = self.to_array();
        for (count, other) in counts.iter_mut().zip(other) {
            *count = count.saturating_add(other);
        }
        Activity::from_array(counts)
    }

    /// Reads the counts of this process since its start.
    pub fn of_process(metrics: &Metrics) -> Activity {
        let attempts = |result| metrics.attempts.get_or_create(&AttemptLabels { result }).get();
        Activity {
            accepted: metrics.orders_accepted.get(),
            started: metrics.orders_started.get(),
            completed: attempts(AttemptResult::completed),
            retried: attempts(AttemptResult::retry),
            failed: attempts(AttemptResult::failed),
            leases_lost: metrics.leases_lost.get(),
            leases_refused: metrics
                .http_requests
                .get_or_create(&RequestLabels {
                    method: "POST",
                    route: "/leases",
                    status: 401,
                })
                .get(),
        }
    }

    /// Reads the counts of this process that are not in the store yet.
    pub fn not_stored(metrics: &Metrics) -> Activity {
        let stored = *metrics
            .counts_stored
            .lock()
            .expect("no code panics while it holds this lock");
        Activity::of_process(metrics).since(Activity::from_array(stored))
    }
}

/// An order in processing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    pub order_id: OrderId,
    pub node: NodeId,
    pub age: Duration,
    /// An external worker, or a service that answered 202, has it.
    pub outside: bool,
}

/// Orders that failed within [`ACTIVITY_WINDOW`] for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureGroup {
    pub error: String,
    /// Among the [`FAILURES_LOOKED_AT_MAX`] latest.
    pub orders: u64,
    /// The latest of them.
    pub order_id: OrderId,
    pub failed_at: Timestamp,
}

/// A Failed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub order_id: OrderId,
    pub error: String,
    pub at: Timestamp,
}

/// Groups the orders, latest first, that failed within [`ACTIVITY_WINDOW`] by their reasons without the numbers in them: the
/// same trouble names another order or item each time. Returns the [`NAMED_MAX`] commonest.
pub(super) fn group_failures(failed: Vec<Failed>, now: Timestamp) -> Vec<FailureGroup> {
    let from = now.minus(ACTIVITY_WINDOW);
    let mut groups: BTreeMap<String, FailureGroup> = BTreeMap::new();
    for order in failed.into_iter().filter(|order| order.at >= from) {
        let group = groups
            .entry(without_numbers(&order.error))
            .or_insert_with(|| FailureGroup {
                error: order.error,
                orders: 0,
                order_id: order.order_id,
                failed_at: order.at,
            });
        group.orders += 1;
        group.failed_at = group.failed_at.max(order.at);
    }
    let mut groups: Vec<FailureGroup> = groups.into_values().collect();
    groups.sort_by_key(|group| (Reverse(group.orders), Reverse(group.order_id)));
    groups.truncate(NAMED_MAX);
    groups
}

/// Replaces each run of digits by one zero.
fn without_numbers(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for character in text.chars() {
        if !character.is_ascii_digit() {
            kept.push(character);
        } else if !kept.ends_with('0') {
            kept.push('0');
        }
    }
    kept
}

/// An order that waits for another attempt.
pub(super) struct Retrying {
    pub order_id: OrderId,
    pub attempts: u32,
    pub error: String,
}

/// An order whose last attempt got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    pub order_id: OrderId,
    pub attempts: u32,
}

/// Returns the [`NAMED_MAX`] orders with the most attempts among those whose last attempt, not their first, got no answer.
pub(super) fn unanswered(retrying: Vec<Retrying>) -> Vec<Unanswered> {
    let mut found: Vec<Unanswered> = retrying
        .into_iter()
        .filter(|order| order.attempts >= 2 && order.error.starts_with(NO_ANSWER))
        .map(|order| Unanswered {
            order_id: order.order_id,
            attempts: order.attempts,
        })
        .collect();
    found.sort_by_key(|order| (Reverse(order.attempts), order.order_id));
    found.truncate(NAMED_MAX);
    found
}

/// An order that others of its user wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    pub order_id: OrderId,
    pub status: OrderStatus,
    /// It waits for its next attempt, which is not due yet.
    pub backing_off: bool,
    /// It is held or scheduled.
    pub set_aside: bool,
    /// Orders that wait for it.
    pub orders: u64,
}

/// A session of the database with a long transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongTransaction {
    pub session: LockHolder,
    /// It waits for its client between two statements.
    pub idle: bool,
    /// Sessions that wait for its locks.
    pub blocks: u64,
}

#[derive(Clone, Debug)]
pub struct Vitals {
    pub read_at: Timestamp,
    pub queue: QueueState,
    /// Counts of the last [`ACTIVITY_WINDOW`]; those of the last minute may be missing.
    pub activity: Activity,
    /// The order that has been in processing longest.
    pub oldest_running: Option<Running>,
    /// Orders that a worker outside has, or a service that answered 202.
    pub running_outside: u64,
    /// Commonest first.
    pub failures: Vec<FailureGroup>,
    /// The one that most orders wait for first.
    pub blocking: Vec<Blocking>,
    /// Pending orders that lost leases when nodes or workers fell silent.
    pub suspects: Vec<OrderId>,
    /// Orders at which the service broke off without an answer twice or more, most attempts first.
    pub unanswered: Vec<Unanswered>,
    /// Longest first; always empty on SQLite.
    pub transactions: Vec<LongTransaction>,
    /// Orders that should start next, if another session has locked them; read only while an order has waited for
    /// [`HEADS_LOOKED_AT_FROM`]. Always empty on SQLite.
    pub locked_orders: Vec<(OrderId, LockHolder)>,
    /// Replication slots without a client for which the database keeps more of its log than it would otherwise.
    pub full_slots: Vec<String>,
}

impl Vitals {
    /// Returns the latest start of an order on any node that is listed.
    pub fn last_start_at(&self) -> Option<Timestamp> {
        self.queue
            .nodes
            .iter()
            .filter_map(|node| node.last_start_at)
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_without_an_answer_are_named_from_the_second_attempt() {
        let retrying = |order_id, attempts, error: &str| Retrying {
            order_id: OrderId(order_id),
            attempts,
            error: error.to_owned(),
        };
        let named = unanswered(vec![
            retrying(1, 1, "the service gave no answer: reset"),
            retrying(2, 2, "the service gave no answer: reset"),
            retrying(3, 4, "the service gave no answer: closed"),
            retrying(4, 9, "the service answered 500"),
        ]);
        let ids: Vec<_> = named.iter().map(|order| order.order_id.0).collect();
        assert_eq!(ids, [3, 2]);
    }

    #[test]
    fn failures_that_differ_in_numbers_only_are_one_group() {
        let failed = |order_id, error: &str| Failed {
            order_id: OrderId(order_id),
            error: error.to_owned(),
            at: Timestamp::from_micros(order_id),
        };
        let now = Timestamp::from_micros(6).plus(ACTIVITY_WINDOW);
        let groups = group_failures(
            vec![
                failed(9, "the service answered 500: order 9, item 1200"),
                failed(8, "poisoned"),
                failed(7, "the service answered 500: order 7, item 42"),
                // These failed before the window.
                failed(5, "poisoned"),
                failed(4, "poisoned"),
            ],
            now,
        );
        let shown: Vec<_> = groups
            .iter()
            .map(|group| (group.orders, group.order_id.0))
            .collect();
        assert_eq!(shown, [(2, 9), (1, 8)]);
        assert_eq!(groups[0].error, "the service answered 500: order 9, item 1200");
    }
}
