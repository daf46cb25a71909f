//! Durations of store calls by verb and outcome.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::REQUEST_SECONDS;

pub type StoreCalls = Family<StoreCallLabels, Histogram, fn() -> Histogram>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
pub enum StoreCallOutcome {
    ok,
    /// The store did nothing but is sound: a limit, a used key, a constraint of the database, a shutdown.
    refused,
    /// The store failed, or the outcome is unknown.
    failed,
    /// The caller stopped waiting, or the call panicked.
    abandoned,
}

impl StoreCallOutcome {
    pub const COUNT: usize = 4;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreCallLabels {
    /// A method of the trait `Store`.
    pub verb: &'static str,
    pub outcome: StoreCallOutcome,
}

pub fn store_calls() -> StoreCalls {
    Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS))
}
