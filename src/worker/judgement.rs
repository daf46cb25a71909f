//! Verdicts on attempts that did not complete: the order gets another attempt, ends, or the attempt was none at all.

use std::time::Duration;

use super::Shared;
use super::guard::{Evidence, Judged, Trial};
use crate::processor::{Cause, ProcessingError};

/// The longest wait that a processor may ask for: as long as the longest that an operator may set.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// Why an attempt is to be repeated.
pub(super) struct Failure {
    pub error: Cause,
    /// The processor knows better than the back-off.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub fn new(error: Cause, retry_after: Option<Duration>) -> Failure {
        Failure { error, retry_after }
    }
}

/// Verdict on an attempt that did not complete.
pub(super) enum Judgement {
    Failed(Failure),
    FailedForGood(Cause),
    /// It was none.
    GivenBack {
        after: Duration,
        error: Cause,
    },
}

pub(super) fn judge(shared: &Shared, trial: Trial, error: ProcessingError) -> Judgement {
    let (evidence, error, retry_after) = match error {
        ProcessingError::Permanent { error } => {
            trial.good();
            return Judgement::FailedForGood(error);
        }
        ProcessingError::Transient { error, retry_after } => {
            trial.good();
            return Judgement::Failed(Failure::new(error, retry_after));
        }
        ProcessingError::Unreachable { error } => (Evidence::Unreachable, error, None),
        ProcessingError::Unavailable { error, retry_after } => {
            (Evidence::Unavailable { retry_after }, error, retry_after)
        }
        ProcessingError::Denied { error } => (Evidence::Denied, error, None),
        ProcessingError::Ailing { error, retry_after } => (Evidence::Ailing, error, retry_after),
    };
    match trial.bad(evidence, error.reason()) {
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
