//! `pause` and `resume`: no order starts, everything else continues.

use std::time::Duration;

use futures_util::FutureExt;
use orderly::lease::Outcome;
use orderly::order::{OrderStatus, Reason};

use crate::support::Harness;
use crate::support::harness::ids_of;
use crate::support::make::{NODE_A, NODE_B, claim_by, heartbeat, retry_after};

conformance! {
    a_paused_queue_grants_nothing,
    a_resumed_queue_continues_where_it_stopped,
    a_pause_survives_a_restart,
    a_claim_reports_whether_the_queue_is_paused,
    a_resume_has_a_wake_up_separate_from_work,
    a_pause_shows_in_the_queue,
    a_pause_keeps_its_beginning_and_its_latest_reason,
    a_paused_queue_accepts_and_settles_orders,
    no_order_starts_after_a_pause_returned,
}

async fn a_paused_queue_grants_nothing(harness: &mut Harness) {
    harness.order_due_in(0).await;
    harness.accept_one().await;
    pause(harness, true).await;
    assert!(harness.claim(10).await.is_empty());
    assert!(harness.claim_as(NODE_B, 10).await.is_empty());
}

async fn a_resumed_queue_continues_where_it_stopped(harness: &mut Harness) {
    let mut ids = harness.accept_some(2).await;
    pause(harness, true).await;
    ids.push(harness.accept_one().await);
    pause(harness, false).await;
    assert_eq!(ids_of(&harness.claim(10).await), ids);
}

async fn a_pause_survives_a_restart(harness: &mut Harness) {
    harness.accept_one().await;
    pause(harness, true).await;
    harness.reopen().await;
    assert!(harness.paused().await);
    assert!(harness.claim(10).await.is_empty());
    pause(harness, false).await;
    harness.reopen().await;
    assert!(!harness.paused().await);
    assert_eq!(harness.claim(10).await.len(), 1);
}

async fn a_claim_reports_whether_the_queue_is_paused(harness: &mut Harness) {
    for paused in [false, true, false] {
        pause(harness, paused).await;
        for open in ["without an order", "with one"] {
            let claimed = harness.store().claim(claim_by(NODE_B, 10)).await.unwrap();
            assert_eq!(claimed.paused, paused, "{open}");
            harness.accept_one().await;
        }
    }
}

async fn a_resume_has_a_wake_up_separate_from_work(harness: &mut Harness) {
    let wakeups = harness.store().wakeups();
    pause(harness, true).await;
    harness.accept_one().await;
    assert!(wakeups.resumed().now_or_never().is_none());
    pause(harness, false).await;
    assert!(wakeups.resumed().now_or_never().is_some());
    assert!(
        wakeups.work().now_or_never().is_some(),
        "the resume also signals work"
    );
}

async fn a_pause_shows_in_the_queue(harness: &mut Harness) {
    assert!(!harness.paused().await);
    for paused in [true, false] {
        pause(harness, paused).await;
        let answered = harness.store().queue_just_set().await.unwrap();
        assert_eq!(
            (answered.pause.is_some(), harness.paused().await),
            (paused, paused)
        );
    }
}

async fn a_pause_keeps_its_beginning_and_its_latest_reason(harness: &mut Harness) {
    let reason = |text: &str| Some(Reason::parse(text).unwrap());
    let given = [None, reason("the bank's test's \\ ☂"), None, reason("longer")];
    let mut seen = Vec::new();
    for reason in given.clone() {
        harness.store().pause(reason).await.unwrap();
        seen.push(harness.store().queue().await.unwrap().pause.unwrap());
        harness.advance(Duration::from_secs(1)).await;
    }
    harness.reopen().await;
    let last = harness.store().queue().await.unwrap().pause.unwrap();
    assert_eq!(seen.pop().as_ref(), Some(&last));
    let reasons: Vec<_> = seen.iter().map(|pause| pause.reason.clone()).collect();
    assert_eq!(reasons, [None, given[1].clone(), given[1].clone()]);
    assert!(seen.iter().all(|pause| pause.at == last.at), "{seen:?}");
    pause(harness, false).await;
    pause(harness, true).await;
    let anew = harness.store().queue().await.unwrap().pause.unwrap();
    assert!(anew.at > last.at && anew.reason.is_none(), "{anew:?}");
}

async fn a_paused_queue_accepts_and_settles_orders(harness: &mut Harness) {
    harness.accept_some(3).await;
    let leases = harness.claim(3).await;
    pause(harness, true).await;
    harness.accept_one().await;
    harness.settle(&leases[0], Outcome::COMPLETED).await;
    harness.settle(&leases[1], retry_after(1)).await;
    let beat = heartbeat(NODE_A, &[leases[2].key()]);
    assert_eq!(harness.store().renew(beat).await.unwrap().lost, []);
    let cancelled = harness.cancel(leases[2].order.order_id).await;
    assert_eq!(cancelled.status, OrderStatus::Cancelled);
    let counters = harness.counters().await;
    assert_eq!((counters.pending, counters.completed), (2, 1));
}

async fn no_order_starts_after_a_pause_returned(harness: &mut Harness) {
    for _ in 0..10 {
        harness.accept_some(20).await;
        let paused = async {
            pause(harness, true).await;
            harness.counters().await.processing
        };
        let claims = (0..10).map(|_| harness.claim(1));
        let (at_pause, _) = tokio::join!(paused, futures_util::future::join_all(claims));
        assert_eq!(harness.counters().await.processing, at_pause);
        pause(harness, false).await;
    }
}

async fn pause(harness: &Harness, paused: bool) {
    if paused {
        harness.store().pause(None).await.unwrap();
    } else {
        harness.store().resume().await.unwrap();
    }
}
