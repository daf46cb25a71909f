//! Orders that the database refuses to start or to take back, as far as this node knows. Claims leave out orders whose start is
//! refused, and try them again from time to time, because nothing signals that the cause is gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::{Explanation, RefusedOrder, StoreError};
use crate::order::{OrderId, OrderStatus};

/// Orders remembered of each kind, at most.
const ORDERS_MAX: usize = 1_000;
/// Shortest and longest wait before a claim tries the refused orders again.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Time for which a refused end is reported. A sweep for expired leases finds it again long before that.
const END_REPORTED_FOR: Duration = Duration::from_mins(2);
/// Age of the last refusal from which the log names an order again.
const LOGGED_AGAIN_AFTER: Duration = Duration::from_mins(1);
/// Orders that one log line names, at most.
const NAMED_MAX: usize = 5;

/// The refusals that this node knows of.
#[derive(Default)]
pub(super) struct Refusals {
    known: Mutex<KnownRefusals>,
}

#[derive(Default)]
struct KnownRefusals {
    /// Error codes of refused starts.
    starts: BTreeMap<OrderId, String>,
    /// Time when a claim tries these orders again, and the wait before it.
    retry_at: Option<Instant>,
    retry_delay: Duration,
    /// Orders that a log line named, with the time of their last refusal.
    logged: BTreeMap<OrderId, Instant>,
    /// The last time when a claim found more refused starts than are remembered.
    overflowed: Option<Instant>,
    /// Error codes of refused ends, with the time of the refusal.
    ends: BTreeMap<OrderId, (String, Instant)>,
}

impl Refusals {
    /// Returns the orders that the next claim leaves out, by rising id: none if it is time to try them again.
    pub fn excluded_from_claims(&self) -> Vec<OrderId> {
        let known = self.known();
        match known.retry_at {
            Some(retry_at) if Instant::now() < retry_at => known.starts.keys().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// Records the refused starts of a claim that left out `excluded`. A start of `given` orders proves nothing about others.
    /// Returns whether there was room to record all of them; the next claim leaves out the recorded ones.
    pub fn record_starts(
        &self,
        excluded: &[OrderId],
        given: Option<&[OrderId]>,
        refused: Vec<RefusedOrder>,
    ) -> bool {
        let mut known = self.known();
        if excluded.is_empty() {
            let again = refused
                .iter()
                .any(|order| known.starts.contains_key(&order.order_id));
            match given {
                None => known.starts.clear(),
                Some(given) => given.iter().for_each(|id| drop(known.starts.remove(id))),
            }
            if !refused.is_empty() {
                known.retry_delay = if again {
                    (known.retry_delay * 2).min(RETRY_MAX)
                } else {
                    RETRY_MIN
                };
                known.retry_at = Some(Instant::now() + known.retry_delay);
            } else if known.starts.is_empty() {
                known.retry_at = None;
            }
            known.logged.retain(|_, at| at.elapsed() < LOGGED_AGAIN_AFTER);
        }
        let room = ORDERS_MAX.saturating_sub(known.starts.len());
        let all_remembered = refused.len() <= room;
        let mut to_log = Vec::new();
        for order in refused.into_iter().take(room) {
            known.starts.insert(order.order_id, order.code.clone());
            if known.logged.insert(order.order_id, Instant::now()).is_none() {
                to_log.push(order);
            }
        }
        let log_limit = !all_remembered && known.overflows();
        drop(known);
        log_refused(RefusedChange::Start, &to_log);
        if log_limit {
            tracing::error!(
                limit = ORDERS_MAX,
                "the database refuses to start more orders than claims can leave out; orders behind them wait until the cause is gone"
            );
        }
        all_remembered
    }

    /// Returns the time until the next claim: when an order is due, or when the refused orders are tried again.
    pub fn next_claim_in(&self, next_due_in: Option<Duration>) -> Option<Duration> {
        let retry_at = self.known().retry_at;
        let retry_in = retry_at.map(|retry_at| retry_at.saturating_duration_since(Instant::now()));
        next_due_in.into_iter().chain(retry_in).min()
    }

    /// Records whether the database refused to end the order's attempt.
    pub fn record_end<T>(&self, id: OrderId, settled: &Result<T, StoreError>) {
        match settled {
            Err(StoreError::Refused { reason, .. }) => self.end_refused(id, reason),
            Ok(_) => self.ended([id]),
            Err(_) => {}
        }
    }

    /// Records orders whose attempts ended.
    pub fn ended(&self, ids: impl IntoIterator<Item = OrderId>) {
        let mut known = self.known();
        for id in ids {
            known.ends.remove(&id);
        }
    }

    /// Records orders that could not be taken back.
    pub fn record_not_taken_back(&self, refused: &[RefusedOrder]) {
        for order in refused {
            self.end_refused(order.order_id, &order.code);
        }
    }

    fn end_refused(&self, id: OrderId, code: &str) {
        let now = Instant::now();
        let mut known = self.known();
        if known.ends.len() >= ORDERS_MAX {
            known.ends.retain(|_, (_, at)| *at + END_REPORTED_FOR > now);
        }
        if known.ends.len() < ORDERS_MAX {
            known.ends.insert(id, (code.to_owned(), now));
        }
    }

    /// Adds the error code with which the database refused to start the order, or to end its running attempt.
    pub fn with_refusal(&self, explanation: Option<Explanation>) -> Option<Explanation> {
        let explanation = explanation?;
        let id = explanation.order.order_id;
        let refused = match explanation.order.status {
            OrderStatus::Pending => self.of_start(id),
            OrderStatus::Processing => self.of_end(id),
            OrderStatus::Completed | OrderStatus::Failed | OrderStatus::Cancelled => None,
        };
        Some(Explanation {
            refused,
            ..explanation
        })
    }

    fn of_start(&self, id: OrderId) -> Option<String> {
        self.known().starts.get(&id).cloned()
    }

    fn of_end(&self, id: OrderId) -> Option<String> {
        let known = self.known();
        let (code, at) = known.ends.get(&id)?;
        (at.elapsed() < END_REPORTED_FOR).then(|| code.clone())
    }

    fn known(&self) -> MutexGuard<'_, KnownRefusals> {
        self.known
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

impl KnownRefusals {
    /// Records that there are more refused starts than are remembered. Returns whether this should be logged.
    fn overflows(&mut self) -> bool {
        let before = self.overflowed.replace(Instant::now());
        before.is_none_or(|at| at.elapsed() >= LOGGED_AGAIN_AFTER)
    }
}

/// A change that the database refuses to make to an order.
#[derive(Clone, Copy, Debug)]
pub enum RefusedChange {
    Start,
    Renewal,
    TakingBack,
    Redrive,
    Removal,
    Timer,
}

impl RefusedChange {
    /// The change in words, and the consequence for the orders.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            RefusedChange::Start => ("start", "claims leave them out and retry every few seconds"),
            RefusedChange::Renewal => (
                "renew the leases of",
                "each lease expires unless the cause is fixed before",
            ),
            RefusedChange::TakingBack => ("take back", "they stay Processing until the cause is gone"),
            RefusedChange::Redrive => ("redrive", "they stay as they are"),
            RefusedChange::Removal => ("remove", "they stay until the cause is gone"),
            RefusedChange::Timer => (
                "move into their line",
                "they stay scheduled; retrying every half minute",
            ),
        }
    }
}

/// Logs one line that names the orders to which the database refuses this change.
pub fn log_refused(change: RefusedChange, refused: &[RefusedOrder]) {
    let Some(first) = refused.first() else { return };
    let ids = refused.iter().take(NAMED_MAX);
    let named: Vec<String> = ids.map(|order| order.order_id.to_string()).collect();
    let more = if refused.len() > NAMED_MAX { ", …" } else { "" };
    let (named, count) = (named.join(", "), refused.len());
    let (change, consequence) = change.words();
    let noun = if count == 1 { "order" } else { "orders" };
    tracing::error!(
        orders = count,
        code = first.code,
        reason = first.reason,
        "the database refuses to {change} {count} {noun} ({named}{more}); {consequence}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(ids: &[i64]) -> Vec<RefusedOrder> {
        let order = |id: &i64| RefusedOrder {
            order_id: OrderId(*id),
            code: "SQLSTATE P0001".to_owned(),
            reason: "refused by a trigger".to_owned(),
        };
        ids.iter().map(order).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn refused_starts_are_retried_with_growing_delays() {
        let refusals = Refusals::default();
        refusals.record_starts(&[], None, refused(&[7]));
        let mut waited = RETRY_MIN;
        while waited < RETRY_MAX * 3 {
            let excluded = refusals.excluded_from_claims();
            assert_eq!(excluded, [OrderId(7)]);
            // A claim in between does not postpone the retry.
            refusals.record_starts(&excluded, None, Vec::new());
            let next = refusals.next_claim_in(None).unwrap();
            assert_eq!(next, waited.min(RETRY_MAX));
            tokio::time::advance(next).await;
            assert_eq!(refusals.excluded_from_claims(), []);
            refusals.record_starts(&[], None, refused(&[7]));
            waited *= 2;
        }
        tokio::time::advance(RETRY_MAX).await;
        refusals.record_starts(&refusals.excluded_from_claims(), None, Vec::new());
        assert_eq!(refusals.of_start(OrderId(7)), None);
        assert_eq!(refusals.next_claim_in(None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_names_the_limit_once_while_it_is_exceeded() {
        let refusals = Refusals::default();
        let ids: Vec<i64> = (1..=2_000).collect();
        let overflowed = || refusals.known().overflowed;
        assert!(refusals.record_starts(&[], None, refused(&ids[..ORDERS_MAX])));
        assert_eq!(overflowed(), None);
        assert!(!refusals.record_starts(
            &refusals.excluded_from_claims(),
            None,
            refused(&ids[ORDERS_MAX..])
        ));
        assert!(overflowed().is_some());
        for _ in 0..10 {
            tokio::time::advance(RETRY_MAX).await;
            assert!(!refusals.known().overflows());
        }
        tokio::time::advance(LOGGED_AGAIN_AFTER).await;
        assert!(refusals.known().overflows());
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_a_thousand_refusals_of_each_kind_are_remembered() {
        let refusals = Refusals::default();
        let ids: Vec<i64> = (1..=2_000).collect();
        refusals.record_starts(&[], None, refused(&ids));
        refusals.record_not_taken_back(&refused(&ids));
        assert_eq!(refusals.excluded_from_claims().len(), ORDERS_MAX);
        assert_eq!(refusals.of_end(OrderId(2_000)), None);
        assert!(refusals.of_end(OrderId(1)).is_some());
        tokio::time::advance(END_REPORTED_FOR).await;
        assert_eq!(refusals.of_end(OrderId(1)), None);
        refusals.record_not_taken_back(&refused(&[2_000]));
        assert!(refusals.of_end(OrderId(2_000)).is_some());
    }
}
