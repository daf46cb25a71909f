//! Orders that the database refuses to start or to take back, as far as this node knows. Claims step around orders whose start
//! is refused, and try them again from time to time: no notice tells when the cause is gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::{RefusedOrder, Standing, StoreError};
use crate::order::{OrderId, OrderStatus};

/// Most orders of each kind that are remembered.
const ORDERS_MAX: usize = 1_000;
/// First and longest wait before a claim tries the refused orders again.
const LOOK_MIN: Duration = Duration::from_millis(500);
const LOOK_MAX: Duration = Duration::from_secs(10);
/// The time for which a refused end is reported. A sweep for expired leases finds it again long before that.
const END_TOLD_FOR: Duration = Duration::from_mins(2);
/// The log names an order again when its last refusal is older than this.
const NAMED_AGAIN_AFTER: Duration = Duration::from_mins(1);
/// The most orders that one log line names.
const NAMED_MAX: usize = 5;

#[derive(Default)]
pub(super) struct Refusals {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The code of each refusal.
    starts: BTreeMap<OrderId, String>,
    /// When a claim tries them again, and the wait before that.
    look_at: Option<Instant>,
    pause: Duration,
    /// Orders that a log line named, and when their start was refused last.
    told: BTreeMap<OrderId, Instant>,
    /// The last time when a claim found more refused starts than are remembered.
    overflowed: Option<Instant>,
    /// The code and the time of each refusal.
    ends: BTreeMap<OrderId, (String, Instant)>,
}

impl Refusals {
    /// Returns the orders that the next claim is to step around: none when it is time to try them again.
    pub fn to_step_around(&self) -> Vec<OrderId> {
        let known = self.known();
        match known.look_at {
            Some(look_at) if Instant::now() < look_at => known.starts.keys().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// Records the refused starts that a claim found while it stepped around `stepped_around`. A start of `given` orders says
    /// nothing of others. Returns whether there was room for all of them: the next claim steps around those that were recorded.
    pub fn claimed(
        &self,
        stepped_around: &[OrderId],
        given: Option<&[OrderId]>,
        refused: Vec<RefusedOrder>,
    ) -> bool {
        let mut known = self.known();
        if stepped_around.is_empty() {
            let again = refused
                .iter()
                .any(|order| known.starts.contains_key(&order.order_id));
            match given {
                None => known.starts.clear(),
                Some(given) => given.iter().for_each(|id| drop(known.starts.remove(id))),
            }
            if !refused.is_empty() {
                known.pause = if again {
                    (known.pause * 2).min(LOOK_MAX)
                } else {
                    LOOK_MIN
                };
                known.look_at = Some(Instant::now() + known.pause);
            } else if known.starts.is_empty() {
                known.look_at = None;
            }
            known.told.retain(|_, at| at.elapsed() < NAMED_AGAIN_AFTER);
        }
        let room = ORDERS_MAX.saturating_sub(known.starts.len());
        let all_remembered = refused.len() <= room;
        let mut news = Vec::new();
        for order in refused.into_iter().take(room) {
            known.starts.insert(order.order_id, order.code.clone());
            if known.told.insert(order.order_id, Instant::now()).is_none() {
                news.push(order);
            }
        }
        let tell_of_the_limit = !all_remembered && known.overflows();
        drop(known);
        tell_refused(RefusedChange::Start, &news);
        if tell_of_the_limit {
            tracing::error!(
                limit = ORDERS_MAX,
                "the database refuses to start more orders than claims step around; orders behind them wait until the cause is gone"
            );
        }
        all_remembered
    }

    /// Returns the time until the next claim, which is when an order is due or the refused orders are to be tried again.
    pub fn sooner(&self, next_due_in: Option<Duration>) -> Option<Duration> {
        let look_at = self.known().look_at;
        let look_in = look_at.map(|look_at| look_at.saturating_duration_since(Instant::now()));
        next_due_in.into_iter().chain(look_in).min()
    }

    /// Records the answer of the database to the end of the order's attempt.
    pub fn settled<T>(&self, id: OrderId, settled: &Result<T, StoreError>) {
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
    pub fn not_taken_back(&self, refused: &[RefusedOrder]) {
        for order in refused {
            self.end_refused(order.order_id, &order.code);
        }
    }

    fn end_refused(&self, id: OrderId, code: &str) {
        let now = Instant::now();
        let mut known = self.known();
        if known.ends.len() >= ORDERS_MAX {
            known.ends.retain(|_, (_, at)| *at + END_TOLD_FOR > now);
        }
        if known.ends.len() < ORDERS_MAX {
            known.ends.insert(id, (code.to_owned(), now));
        }
    }

    /// Adds the code with which the order's start was refused, or the end of the attempt that runs.
    pub fn told_of(&self, standing: Option<Standing>) -> Option<Standing> {
        let standing = standing?;
        let id = standing.order.order_id;
        let refused = match standing.order.status {
            OrderStatus::Pending => self.of_start(id),
            OrderStatus::Processing => self.of_end(id),
            OrderStatus::Completed | OrderStatus::Failed | OrderStatus::Cancelled => None,
        };
        Some(Standing { refused, ..standing })
    }

    fn of_start(&self, id: OrderId) -> Option<String> {
        self.known().starts.get(&id).cloned()
    }

    fn of_end(&self, id: OrderId) -> Option<String> {
        let known = self.known();
        let (code, at) = known.ends.get(&id)?;
        (at.elapsed() < END_TOLD_FOR).then(|| code.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

impl Known {
    /// Records that there are more refused starts than are remembered. Returns whether the log is to say so.
    fn overflows(&mut self) -> bool {
        let before = self.overflowed.replace(Instant::now());
        before.is_none_or(|at| at.elapsed() >= NAMED_AGAIN_AFTER)
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
}

impl RefusedChange {
    /// The change in words, and what becomes of the orders.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            RefusedChange::Start => ("start", "claims step around them and try again every few seconds"),
            RefusedChange::Renewal => (
                "renew the leases of",
                "each lease runs out unless the cause goes before",
            ),
            RefusedChange::TakingBack => ("take back", "they stay Processing until the cause is gone"),
            RefusedChange::Redrive => ("redrive", "they stay as they are"),
            RefusedChange::Removal => ("take out", "they stay until the cause is gone"),
        }
    }
}

/// Logs in one line the orders to which the database refuses this change.
pub fn tell_refused(change: RefusedChange, refused: &[RefusedOrder]) {
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
            reason: "not with us".to_owned(),
        };
        ids.iter().map(order).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn refused_starts_are_tried_again_ever_less_often() {
        let refusals = Refusals::default();
        refusals.claimed(&[], None, refused(&[7]));
        let mut waited = LOOK_MIN;
        while waited < LOOK_MAX * 3 {
            let around = refusals.to_step_around();
            assert_eq!(around, [OrderId(7)]);
            // What turns up meanwhile puts nothing off.
            refusals.claimed(&around, None, Vec::new());
            let next = refusals.sooner(None).unwrap();
            assert_eq!(next, waited.min(LOOK_MAX));
            tokio::time::advance(next).await;
            assert_eq!(refusals.to_step_around(), []);
            refusals.claimed(&[], None, refused(&[7]));
            waited *= 2;
        }
        tokio::time::advance(LOOK_MAX).await;
        refusals.claimed(&refusals.to_step_around(), None, Vec::new());
        assert_eq!(refusals.of_start(OrderId(7)), None);
        assert_eq!(refusals.sooner(None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_names_the_limit_once_while_it_is_exceeded() {
        let refusals = Refusals::default();
        let ids: Vec<i64> = (1..=2_000).collect();
        let overflowed = || refusals.known().overflowed;
        assert!(refusals.claimed(&[], None, refused(&ids[..ORDERS_MAX])));
        assert_eq!(overflowed(), None);
        assert!(!refusals.claimed(&refusals.to_step_around(), None, refused(&ids[ORDERS_MAX..])));
        assert!(overflowed().is_some());
        for _ in 0..10 {
            tokio::time::advance(LOOK_MAX).await;
            assert!(!refusals.known().overflows());
        }
        tokio::time::advance(NAMED_AGAIN_AFTER).await;
        assert!(refusals.known().overflows());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_refused_orders_are_remembered_than_the_limit() {
        let refusals = Refusals::default();
        let ids: Vec<i64> = (1..=2_000).collect();
        refusals.claimed(&[], None, refused(&ids));
        refusals.not_taken_back(&refused(&ids));
        assert_eq!(refusals.to_step_around().len(), ORDERS_MAX);
        assert_eq!(refusals.of_end(OrderId(2_000)), None);
        assert!(refusals.of_end(OrderId(1)).is_some());
        tokio::time::advance(END_TOLD_FOR).await;
        assert_eq!(refusals.of_end(OrderId(1)), None);
        refusals.not_taken_back(&refused(&[2_000]));
        assert!(refusals.of_end(OrderId(2_000)).is_some());
    }
}
