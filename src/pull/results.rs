//! Results and lease renewals of external workers. The token decides, whether it comes from a worker that took the order
//! or from a service that received it and calls back, possibly before it answered 202. An order that was never handed out
//! takes no result: its own node knows how its attempt ends.

use std::time::Duration;

use super::{Outside, RETRY_AFTER_MAX};
use crate::epoch::Token;
use crate::lease::{LeaseKey, Outcome};
use crate::metrics::{AttemptLabels, AttemptResult, OutsideLabels, OutsideResult};
use crate::order::{Order, OrderId, OrderStatus};
use crate::portable_json::JsonText;
use crate::store::{ExternalHold, ExternalLease, LatestClaim, SettledExternal, StoreError};
use crate::time::Timestamp;

/// The reason why a call with a token failed.
#[derive(Debug)]
pub enum ResultError {
    UnknownOrder,
    /// The token is not the latest of the order, or its attempt has ended; nothing changed.
    LeaseLost,
    /// The error says whether anything is stored.
    Store(StoreError),
    /// The result is stored, but reading the order afterwards failed.
    Unread(StoreError),
}

/// The failure of an attempt.
#[derive(Clone, Debug)]
pub struct Failure {
    pub error: String,
    /// Set if no further attempt can succeed.
    pub permanent: bool,
    /// Minimum delay before the next attempt.
    pub retry_after: Option<Duration>,
}

/// The state of the attempt that a token names.
enum Ended {
    Now(Order),
    /// The attempt ended before this call, or the token is not from the order's latest claim.
    Before(LatestClaim),
}

impl From<StoreError> for ResultError {
    fn from(error: StoreError) -> ResultError {
        ResultError::Store(error)
    }
}

impl Outside {
    /// Renews a lease from now for `lease`, capped at the end of the attempt's time.
    pub async fn renew(&self, id: OrderId, token: Token, lease: Duration) -> Result<Timestamp, ResultError> {
        let latest = self.latest_claim(id).await?;
        let key = handed_out(&latest, token).ok_or(ResultError::LeaseLost)?;
        let hold = ExternalHold {
            lease,
            run_max: self.settings.attempt_timeout,
        };
        match self.store.hold_external(key, hold).await? {
            ExternalLease::Until(expires) => Ok(expires),
            ExternalLease::Stale => Err(ResultError::LeaseLost),
        }
    }

    /// Completes an order. A repeated completion with the same result gets the same answer, as the first answer may have
    /// been lost.
    pub async fn complete(
        &self,
        id: OrderId,
        token: Token,
        result: Option<JsonText>,
    ) -> Result<Order, ResultError> {
        let outcome = Outcome::Completed {
            result: result.clone(),
        };
        // No claim follows a completion, so the latest token of a completed order is the one that completed it.
        let is_repeated = |latest: &LatestClaim| {
            let order = &latest.order;
            handed_out(latest, token).is_some()
                && order.status == OrderStatus::Completed
                && order.result == result
        };
        match self.settle(id, token, outcome).await? {
            Ended::Now(order) => Ok(order),
            Ended::Before(latest) if is_repeated(&latest) => Ok(latest.order),
            Ended::Before(_) => Err(self.counted_as_lost()),
        }
    }

    /// Fails an attempt. A retry follows after the backoff, unless attempts are used up or the failure is permanent.
    pub async fn fail(&self, id: OrderId, token: Token, failure: Failure) -> Result<Order, ResultError> {
        let latest = self.latest_claim(id).await?;
        if handed_out(&latest, token).is_none() {
            return Err(self.counted_as_lost());
        }
        let delay = self.settings.retry.delay(latest.order.attempts, rand::random());
        let error = failure.error;
        let outcome = match delay.filter(|_| !failure.permanent) {
            Some(delay) => {
                let asked = failure.retry_after.unwrap_or(Duration::ZERO);
                let after = asked.min(RETRY_AFTER_MAX).max(delay);
                Outcome::Retry { after, error }
            }
            None => Outcome::Failed { error },
        };
        self.settle_once(id, token, outcome).await
    }

    /// Returns an order to its line without counting an attempt.
    pub async fn release(&self, id: OrderId, token: Token) -> Result<Order, ResultError> {
        self.settle_once(id, token, Outcome::Released).await
    }

    async fn latest_claim(&self, id: OrderId) -> Result<LatestClaim, ResultError> {
        self.store.claimed(id).await?.ok_or(ResultError::UnknownOrder)
    }

    async fn settle_once(&self, id: OrderId, token: Token, outcome: Outcome) -> Result<Order, ResultError> {
        match self.settle(id, token, outcome).await? {
            Ended::Now(order) => Ok(order),
            Ended::Before(_) => Err(self.counted_as_lost()),
        }
    }

    async fn settle(&self, id: OrderId, token: Token, outcome: Outcome) -> Result<Ended, ResultError> {
        let (settled, (counted, ended)) = self.settle_or_instead(id, token, outcome).await?;
        let settled = match settled {
            SettledExternal::UnknownOrder => return Err(ResultError::UnknownOrder),
            SettledExternal::Lost(latest) => return Ok(Ended::Before(latest)),
            SettledExternal::Done(order) => Ok(order),
            SettledExternal::Unread(error) => Err(ResultError::Unread(error)),
        };
        self.count(counted);
        let labels = AttemptLabels { result: ended };
        self.metrics.attempts.get_or_create(&labels).inc();
        let order = settled?;
        if let (Some(started), Some(finished)) = (order.processing_at, order.finished_at) {
            self.metrics
                .order_processing
                .observe(finished.since(started).as_secs_f64());
        }
        Ok(Ended::Now(order))
    }

    /// Settles an attempt. If the store refuses the result for good, a worker would repeat it until its lease expires; so
    /// the attempt ends at once with a reason that can be stored.
    async fn settle_or_instead(
        &self,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<(SettledExternal, Counted), StoreError> {
        let refusal = match self.store.settle_external(id, token, outcome.clone()).await {
            Err(error @ StoreError::Refused { .. }) => error,
            settled => return Ok((settled?, counted_as(&outcome))),
        };
        tracing::error!(order.id = %id, error = %refusal,
            "the store refuses the result of order {id} for good");
        let StoreError::Refused { reason, .. } = &refusal else {
            return Err(refusal);
        };
        for instead in outcome.after_refusal(reason) {
            match self.store.settle_external(id, token, instead.clone()).await {
                Err(StoreError::Refused { .. }) => {}
                settled => return Ok((settled?, counted_as(&instead))),
            }
        }
        Err(refusal)
    }

    fn counted_as_lost(&self) -> ResultError {
        self.metrics.stale_results_rejected.inc();
        self.count(OutsideResult::lost);
        ResultError::LeaseLost
    }

    fn count(&self, result: OutsideResult) {
        self.metrics
            .outside_results
            .get_or_create(&OutsideLabels { result })
            .inc();
    }
}

/// Returns the lease of the latest claim if this is its token and it was given to someone other than its node.
fn handed_out(latest: &LatestClaim, token: Token) -> Option<LeaseKey> {
    latest
        .key
        .filter(|_| latest.handed_out && latest.token == Some(token))
}

/// Counters of a result: those of external workers and those of all attempts.
type Counted = (OutsideResult, AttemptResult);

fn counted_as(outcome: &Outcome) -> Counted {
    match outcome {
        Outcome::Completed { .. } => (OutsideResult::completed, AttemptResult::completed),
        Outcome::Retry { .. } => (OutsideResult::retry, AttemptResult::retry),
        Outcome::Failed { .. } => (OutsideResult::failed, AttemptResult::failed),
        Outcome::Released | Outcome::GivenBack { .. } => (OutsideResult::released, AttemptResult::released),
    }
}
