//! Stores the result of an attempt, with retries until the store accepts it, refuses it for good, or the lease is gone.

use std::time::Duration;

use super::Shared;
use super::backoff::Backoff;
use super::executor::log_abandoned;
use super::running::Hold;
use crate::lease::{Lease, Outcome};
use crate::log_lines::Latch;
use crate::metrics::AttemptResult;
use crate::store::{ExternalHold, ExternalLease, Settled, StoreError};

/// First and longest wait before storing a result again.
pub(super) const STORE_RETRY_MIN: Duration = Duration::from_millis(50);
pub(super) const STORE_RETRY_MAX: Duration = Duration::from_secs(2);

/// The reason why a result was not stored.
enum NotStored {
    /// The lease is gone, or the store is closed.
    Gone,
    /// The store would refuse it again.
    Refused(String),
}

/// Settles an attempt. A failure of the store never uses up an attempt: storing is retried while the lease lives. A
/// refusal for good does: the attempt ends with a reason that can be stored.
pub(super) async fn settle(
    shared: &Shared,
    lease: &Lease,
    outcome: Outcome,
    hold: &mut Hold,
) -> AttemptResult {
    match settle_one(shared, lease, &outcome, hold).await {
        Ok(settled) => result_of(lease, settled, &outcome),
        Err(NotStored::Gone) => AttemptResult::abandoned,
        Err(NotStored::Refused(reason)) => {
            settle_instead(shared, lease, outcome.after_refusal(&reason), hold).await
        }
    }
}

/// Tries each outcome once.
async fn settle_instead(
    shared: &Shared,
    lease: &Lease,
    outcomes: Vec<Outcome>,
    hold: &mut Hold,
) -> AttemptResult {
    for outcome in outcomes {
        match settle_one(shared, lease, &outcome, hold).await {
            Ok(settled) => return result_of(lease, settled, &outcome),
            Err(NotStored::Gone) => return AttemptResult::abandoned,
            Err(NotStored::Refused(_)) => {}
        }
    }
    let order_id = lease.order.order_id;
    tracing::error!(order.id = %order_id,
        "the store accepts no result of the attempt at order {order_id}; its lease will expire");
    AttemptResult::abandoned
}

async fn settle_one(
    shared: &Shared,
    lease: &Lease,
    outcome: &Outcome,
    hold: &mut Hold,
) -> Result<Settled, NotStored> {
    let settle = || shared.store.settle(lease.key(), outcome.clone());
    stored(lease, hold, settle).await
}

/// Hands the lease over to an external service until the attempt times out.
pub(super) async fn hand_over(shared: &Shared, lease: &Lease, hold: &mut Hold) -> AttemptResult {
    let run_max = shared.settings.attempt_timeout;
    let outside = ExternalHold {
        lease: run_max,
        run_max,
    };
    match stored(lease, hold, || shared.store.hold_external(lease.key(), outside)).await {
        Ok(ExternalLease::Until(_)) => {
            let order_id = lease.order.order_id;
            tracing::debug!(order.id = %order_id, within = ?run_max, "order {order_id} was handed over");
            AttemptResult::handed_over
        }
        // The service may have settled it already.
        Ok(ExternalLease::Stale) | Err(NotStored::Gone) => AttemptResult::abandoned,
        Err(NotStored::Refused(reason)) => {
            settle_instead(shared, lease, Outcome::COMPLETED.after_refusal(&reason), hold).await
        }
    }
}

/// Repeats a call until the store accepts it.
async fn stored<T, F>(lease: &Lease, hold: &mut Hold, call: impl Fn() -> F) -> Result<T, NotStored>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let order_id = lease.order.order_id;
    let mut retries = Backoff::new(STORE_RETRY_MIN, STORE_RETRY_MAX);
    let failing = Latch::default();
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(StoreError::Closed) => return Err(NotStored::Gone),
            Err(StoreError::Refused {
                attempted,
                reason,
                source,
            }) => {
                tracing::error!(order.id = %order_id, reason, attempted, error = format!("{source:#}"),
                    "the store refuses the result of order {order_id} for good");
                return Err(NotStored::Refused(reason));
            }
            Err(error) if failing.set() => {
                tracing::warn!(order.id = %order_id, %error,
                    "cannot store the result of order {order_id}; retrying. If it goes on, `orderly doctor` says why");
            }
            Err(_) => {}
        }
        tokio::select! {
            end = hold.end() => {
                log_abandoned(lease, end);
                return Err(NotStored::Gone);
            }
            () = tokio::time::sleep(retries.pause()) => {}
        }
    }
}

fn result_of(lease: &Lease, settled: Settled, outcome: &Outcome) -> AttemptResult {
    let status = match settled {
        Settled::Done(status) => status,
        Settled::Stale => {
            let order_id = lease.order.order_id;
            tracing::warn!(order.id = %order_id, fence = lease.fence,
                "the result of order {order_id} came too late and was refused: the order is no longer this node's; if it happens often, \
                 raise ORDERLY_LEASE");
            return AttemptResult::abandoned;
        }
    };
    let order_id = lease.order.order_id;
    tracing::debug!(order.id = %order_id, attempt = lease.order.attempts, status = status.name(),
        "the attempt at order {order_id} is settled");
    match outcome {
        Outcome::Completed { .. } => AttemptResult::completed,
        Outcome::Retry { .. } => AttemptResult::retry,
        Outcome::Failed { .. } => AttemptResult::failed,
        Outcome::Released | Outcome::GivenBack { .. } => AttemptResult::released,
    }
}
