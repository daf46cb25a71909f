//! Decides on attempts that did not complete: a retry, the end of the order, or not an attempt at all.

use std::time::Duration;

use super::Shared;
use super::guard::{Evidence, GuardedAttempt, Judged};
use crate::processor::{Cause, ProcessingError};

/// Maximum delay that a processor may ask for, equal to the operator's maximum.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// A failure that allows a retry.
pub(super) struct Failure {
    pub error: Cause,
    /// Delay that the processor asks for instead of the backoff.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub fn new(error: Cause, retry_after: Option<Duration>) -> Failure {
        Failure { error, retry_after }
    }
}

/// Decision on an attempt that did not complete.
pub(super) enum Judgement {
    Failed(Failure),
    FailedForGood(Cause),
    /// Not an attempt at all.
    GivenBack {
        after: Duration,
        error: Cause,
    },
}

pub(super) fn judge(shared: &Shared, guarded: GuardedAttempt, error: ProcessingError) -> Judgement {
    let (evidence, error, retry_after) = match error {
        ProcessingError::Permanent { error } => {
            guarded.good();
            return Judgement::FailedForGood(error);
        }
        ProcessingError::Transient { error, retry_after } => {
            guarded.good();
            return Judgement::Failed(Failure::new(error, retry_after));
        }
        ProcessingError::Unreachable { error } => (Evidence::Unreachable, error, None),
        ProcessingError::Unavailable { error, retry_after } => {
            (Evidence::Unavailable { retry_after }, error, retry_after)
        }
        ProcessingError::Denied { error } => (Evidence::Denied, error, None),
        ProcessingError::Ailing { error, retry_after } => (Evidence::Ailing, error, retry_after),
    };
    shared.last_failure.set(&error);
    match guarded.bad(evidence, error.reason()) {
        Judged::Counts => Judgement::Failed(Failure::new(error, retry_after)),
        Judged::GivenBack => Judgement::GivenBack {
            after: Duration::ZERO,
            error,
        },
        Judged::PutOff { times } => {
            let back_off = shared.settings.retry.back_off(times, rand::random());
            let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            Judgement::GivenBack {
                after: back_off.max(asked),
                error,
            }
        }
    }
}
