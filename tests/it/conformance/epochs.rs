//! A new epoch on a store whose history continues: values given out before stay valid, and none is given out again.

use orderly::lease::Outcome;
use orderly::store::{FEED_EVENTS_MAX, RESTORE_JUMP, SettledExternal};

use super::external_leases::take_only;
use crate::support::Harness;

conformance! {
    fences_rise_across_epochs,
    order_ids_jump_ahead_in_a_new_epoch,
    an_order_keeps_its_attempt_key_across_epochs,
    a_token_from_before_an_epoch_still_settles,
    a_cursor_from_before_an_epoch_stays_valid,
}

async fn fences_rise_across_epochs(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let first = harness.claim_only(id).await;
    harness.settle(&first, Outcome::Released).await;
    harness.begin_epoch().await;
    let second = harness.claim_only(id).await;
    assert!(second.fence >> 32 > first.fence >> 32, "{first:?}, {second:?}");
    assert!(second.fence < 1 << 53);
}

async fn order_ids_jump_ahead_in_a_new_epoch(harness: &mut Harness) {
    let before = harness.accept_one().await;
    harness.begin_epoch().await;
    let after = harness.accept_one().await;
    assert!(after.0 - before.0 >= RESTORE_JUMP, "{before} and {after}");
}

async fn an_order_keeps_its_attempt_key_across_epochs(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let first = harness.claim_only(id).await;
    harness.settle(&first, Outcome::Released).await;
    harness.begin_epoch().await;
    let again = harness.claim_only(id).await;
    assert_eq!(again.attempt_key, first.attempt_key);
    let next = harness.accept_one().await;
    let next = harness.claim_only(next).await;
    assert_ne!(next.attempt_key.accepted_in, first.attempt_key.accepted_in);
}

async fn a_token_from_before_an_epoch_still_settles(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = take_only(harness, id).await;
    harness.begin_epoch().await;
    let settled = harness
        .store()
        .settle_external(id, lease.token, Outcome::COMPLETED);
    let settled = settled.await.unwrap();
    assert!(matches!(settled, SettledExternal::Done(_)), "{settled:?}");
}

async fn a_cursor_from_before_an_epoch_stays_valid(harness: &mut Harness) {
    harness.accept_one().await;
    let page = async |harness: &Harness| harness.store().events_after(None, FEED_EVENTS_MAX).await.unwrap();
    let before = page(harness).await.bounds;
    let cursor = before.cursor(before.last);
    harness.begin_epoch().await;
    harness.accept_one().await;
    let after = page(harness).await.bounds;
    assert!(after.contain(cursor));
    assert!(after.last > cursor.position);
    let of_the_epoch = after.cursor(after.last);
    assert_ne!(of_the_epoch.epoch, cursor.epoch);
    assert!(after.contain(of_the_epoch) && !before.contain(of_the_epoch));
}
