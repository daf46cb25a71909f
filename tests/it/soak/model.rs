//! The random operations of `conformance::model`; `cargo xtask soak model` runs ten thousand sequences.

use crate::conformance::model::random_operations_match_the_model_on;
use crate::soak::in_full;
use crate::support::Harness;

const RUNS: u32 = 10_000;

/// An ordinary run has its slice in `conformance::model`.
#[test]
fn random_operations_match_the_model() {
    let runs = if in_full() { RUNS } else { 1 };
    random_operations_match_the_model_on(runs, async || Some(Harness::sqlite().await));
}
