//! `claim` of retries, redrives and given-back orders: a second line by due time, beside the first line.

use std::time::Duration;

use orderly::lease::{Lease, Outcome};
use orderly::order::OrderId;
use orderly::store::{ClaimRequest, Claimed};

use crate::support::Harness;
use crate::support::harness::ids_of;
use crate::support::make::{NODE_A, claim_by, retry_after};

conformance! {
    a_retry_starts_when_it_is_due_and_no_earlier,
    retries_start_by_due_time,
    retries_due_longest_start_first,
    orders_in_backoff_do_not_hold_up_others,
    a_claim_takes_from_both_lines,
    claims_of_one_order_alternate_between_the_lines,
    an_empty_claim_does_not_change_the_alternation,
    a_short_line_leaves_its_share_to_the_other_line,
    first_attempts_come_first_in_a_claim,
    a_claim_reports_when_the_next_retry_is_due,
    the_earliest_of_several_retries_is_reported,
    a_released_order_is_due_at_once,
    a_redriven_order_joins_the_second_line,
    a_cancelled_retry_is_no_longer_reported_as_due,
}

async fn a_retry_starts_when_it_is_due_and_no_earlier(harness: &mut Harness) {
    let id = harness.order_due_in(10).await;
    harness.advance(Duration::from_secs(9)).await;
    assert!(harness.claim(10).await.is_empty());
    harness.advance(Duration::from_secs(1)).await;
    let lease = harness.claim_only(id).await;
    assert_eq!(lease.order.attempts, 2);
    assert_eq!(lease.order.next_attempt_at, None);
}

async fn retries_start_by_due_time(harness: &mut Harness) {
    let last = harness.order_due_in(30).await;
    let first = harness.order_due_in(10).await;
    let second = harness.order_due_in(20).await;
    harness.advance(Duration::from_mins(1)).await;
    assert_eq!(ids_of(&harness.claim(10).await), [first, second, last]);
}

async fn retries_due_longest_start_first(harness: &mut Harness) {
    let mut by_due_time = Vec::new();
    for seconds in [40, 10, 30, 20] {
        by_due_time.push((seconds, harness.order_due_in(seconds).await));
    }
    by_due_time.sort_unstable();
    harness.advance(Duration::from_mins(1)).await;
    for pair in by_due_time.chunks(2) {
        let request = ClaimRequest {
            suspect: false,
            ..claim_by(NODE_A, 2)
        };
        let started = ids_of(&harness.store().claim(request).await.unwrap().leases);
        assert_eq!(started, [pair[0].1, pair[1].1]);
    }
}

async fn orders_in_backoff_do_not_hold_up_others(harness: &mut Harness) {
    let waiting = harness.accept_some(5).await;
    for lease in harness.claim(5).await {
        harness.settle(&lease, retry_after(60)).await;
    }
    let due = harness.order_due_in(1).await;
    harness.advance(Duration::from_secs(2)).await;
    let first_attempt = harness.accept_one().await;
    let started = ids_of(&harness.claim(10).await);
    assert_eq!(started, [first_attempt, due]);
    assert!(waiting.iter().all(|id| !started.contains(id)));
}

async fn a_claim_takes_from_both_lines(harness: &mut Harness) {
    let (first_line, second_line) = two_lines(harness, 6).await;
    let leases = harness.claim(6).await;
    assert_eq!(leases.len(), 6);
    let of_second = from(&leases, &second_line);
    assert!(of_second > 0 && of_second < 6, "{of_second} of 6");
    assert_eq!(from(&leases, &first_line), 6 - of_second);
}

async fn claims_of_one_order_alternate_between_the_lines(harness: &mut Harness) {
    let (_, second_line) = two_lines(harness, 4).await;
    for _ in 0..4 {
        let mut leases = harness.claim(1).await;
        leases.extend(harness.claim(1).await);
        assert_eq!(from(&leases, &second_line), 1);
    }
    assert!(harness.claim(1).await.is_empty());
}

async fn an_empty_claim_does_not_change_the_alternation(harness: &mut Harness) {
    let (_, second_line) = two_lines(harness, 2).await;
    let mut leases = Vec::new();
    for _ in 0..2 {
        leases.extend(harness.claim(1).await);
        leases.extend(harness.claim(0).await);
    }
    assert_eq!(from(&leases, &second_line), 1);
}

async fn a_short_line_leaves_its_share_to_the_other_line(harness: &mut Harness) {
    let (_, second_line) = two_lines(harness, 1).await;
    harness.accept_some(9).await;
    let leases = harness.claim(10).await;
    assert_eq!(leases.len(), 10);
    assert_eq!(from(&leases, &second_line), 1);

    for lease in leases {
        harness.settle(&lease, Outcome::Released).await;
    }
    harness.accept_one().await;
    assert_eq!(harness.claim(11).await.len(), 11);
}

async fn first_attempts_come_first_in_a_claim(harness: &mut Harness) {
    let (first_line, second_line) = two_lines(harness, 3).await;
    let started = ids_of(&harness.claim(6).await);
    assert_eq!(started, [first_line, second_line].concat());
}

async fn a_claim_reports_when_the_next_retry_is_due(harness: &mut Harness) {
    harness.order_due_in(10).await;
    assert_due_in(&claim_nothing(harness).await, Duration::from_secs(10));
    harness.advance(Duration::from_secs(4)).await;
    assert_due_in(&claim_nothing(harness).await, Duration::from_secs(6));
    harness.advance(Duration::from_secs(6)).await;
    let claimed = harness.store().claim(claim_by(NODE_A, 10)).await.unwrap();
    assert_eq!(claimed.leases.len(), 1);
    assert_eq!(claimed.next_due_in, None);
}

async fn the_earliest_of_several_retries_is_reported(harness: &mut Harness) {
    harness.order_due_in(30).await;
    harness.order_due_in(10).await;
    harness.order_due_in(20).await;
    assert_due_in(&claim_nothing(harness).await, Duration::from_secs(10));
}

async fn a_released_order_is_due_at_once(harness: &mut Harness) {
    let id = harness.attempt_once(Outcome::Released).await;
    harness.claim_only(id).await;
}

async fn a_redriven_order_joins_the_second_line(harness: &mut Harness) {
    let redriven = harness.accept_one().await;
    harness.cancel(redriven).await;
    let first_attempt = harness.accept_one().await;
    harness.redrive(redriven).await;
    assert_eq!(ids_of(&harness.claim(10).await), [first_attempt, redriven]);
}

async fn a_cancelled_retry_is_no_longer_reported_as_due(harness: &mut Harness) {
    let id = harness.order_due_in(10).await;
    harness.cancel(id).await;
    assert_eq!(claim_nothing(harness).await.next_due_in, None);
    harness.advance(Duration::from_mins(1)).await;
    assert!(harness.claim(10).await.is_empty());
}

/// Fills each line with this many ready orders: first attempts and due retries.
async fn two_lines(harness: &Harness, each: usize) -> (Vec<OrderId>, Vec<OrderId>) {
    let second_line = harness.accept_some(each).await;
    for lease in harness.claim(each).await {
        harness.settle(&lease, retry_after(1)).await;
        // Makes due times differ, which fixes the order of the line.
        harness.advance(Duration::from_millis(1)).await;
    }
    harness.advance(Duration::from_secs(1)).await;
    (harness.accept_some(each).await, second_line)
}

fn from(leases: &[Lease], line: &[OrderId]) -> usize {
    leases
        .iter()
        .filter(|lease| line.contains(&lease.order.order_id))
        .count()
}

async fn claim_nothing(harness: &Harness) -> Claimed {
    let claimed = harness.store().claim(claim_by(NODE_A, 10)).await.unwrap();
    assert!(claimed.leases.is_empty());
    claimed
}

/// Allows a second for stores whose clock cannot be stopped.
fn assert_due_in(claimed: &Claimed, expected: Duration) {
    let due_in = claimed.next_due_in.expect("the claim reports a due time");
    assert!(
        due_in <= expected && due_in + Duration::from_secs(1) > expected,
        "{due_in:?} instead of {expected:?}"
    );
}
