//! Orders whose start the database refused: starts that skipped them stay explained in the copy.

use std::time::Duration;

use super::possible;
use crate::support::harness::ids_of;
use crate::support::{Harness, check};

from_every_store! {
    starts_that_overtook_a_refused_order_stay_explained_after_a_copy,
}

async fn starts_that_overtook_a_refused_order_stay_explained_after_a_copy(harness: Harness) {
    let bad = harness.accept_one().await;
    harness.refuse_starts(&[bad]).await;
    // Certainly later.
    harness.advance(Duration::from_mins(2)).await;
    let later = harness.accept_some(2).await;
    let mut started = Vec::new();
    while started.len() < 2 {
        started.extend(ids_of(&harness.claim(2).await));
    }
    assert_eq!(started, later);
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        let records = copy.records().await;
        assert_eq!(records[1].events[1].passed_over, [bad]);
        assert_eq!(ids_of(&copy.claim(2).await), [bad]);
    })
    .await;
}
