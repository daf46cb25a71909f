//! Failed attempts wait for a jittered backoff (issue 13, point 33), and the durations of the simulated processor
//! (point 35).

use std::collections::BTreeSet;
use std::time::Duration;

use orderly::epoch::TokenSecret;
use orderly::lease::ProcessorKind;
use orderly::metrics::Metrics;
use orderly::order::{Items, NewOrder, OrderId};
use orderly::processor::simulated::Simulated;
use orderly::processor::{Attempt, Processed, Processor};
use orderly::pull::{Failure, Outside, OutsideSettings};
use orderly::retry::RetryPolicy;
use orderly::store::ClaimRequest;
use tokio::time::Instant;

use super::world::{LEASE, Setting, Step, World};
use crate::support::Harness;
use crate::support::make::{NODE_A, claim_by, new_order};

/// Few enough not to be spread out beyond their backoff.
const ORDERS: usize = 10;
const SECOND: Duration = Duration::from_secs(1);

/// The wait of each order before its next attempt.
async fn waits(harness: &Harness, ids: &[OrderId]) -> Vec<Duration> {
    let mut waits = Vec::new();
    for id in ids {
        let order = harness.order(*id).await;
        let failed_at = harness.history(*id, 0).await.last().unwrap().at;
        waits.push(order.next_attempt_at.unwrap().since(failed_at));
    }
    waits
}

/// Full jitter: anything up to the ceiling, with different values.
fn assert_jittered(waits: &[Duration], ceiling: Duration) {
    assert!(waits.iter().all(|wait| *wait <= ceiling), "{waits:?}");
    let different: BTreeSet<&Duration> = waits.iter().collect();
    assert!(different.len() > waits.len() / 2, "{waits:?}");
    let longest = waits.iter().max().unwrap();
    let shortest = waits.iter().min().unwrap();
    assert!(*longest > ceiling / 4 && *shortest < ceiling * 3 / 4, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_wait_for_a_jittered_backoff() {
    let setting = Setting {
        slots: u32::try_from(ORDERS).unwrap(),
        ..Setting::default()
    };
    let world = World::new(setting).await;
    let ids: Vec<OrderId> = (1..).take(ORDERS).map(OrderId).collect();
    for id in &ids {
        world.script.order(*id, &[Step::Fail]);
    }
    world.harness.accept_some(ORDERS).await;
    world
        .until("all have failed", async |world| {
            world.harness.counters().await.processing == 0 && world.script.attempts().len() >= ORDERS
        })
        .await;
    // Orders with very short waits may have started again.
    let mut waiting = Vec::new();
    for id in ids {
        if world.harness.order(id).await.next_attempt_at.is_some() {
            waiting.push(id);
        }
    }
    assert!(waiting.len() > ORDERS / 2, "{waiting:?}");
    assert_jittered(&waits(&world.harness, &waiting).await, SECOND);
    world.end().await;
}

#[tokio::test]
async fn failures_from_external_workers_wait_for_a_jittered_backoff() {
    let harness = Harness::sqlite().await;
    let outside = Outside {
        store: harness.store().clone(),
        settings: OutsideSettings {
            lease: LEASE,
            attempt_timeout: Duration::from_mins(5),
            retry: RetryPolicy {
                attempts_max: 5,
                base: SECOND,
                cap: Duration::from_mins(5),
            },
        },
        lease_requests: None,
        metrics: Metrics::new(),
    };
    let ids = harness.accept_some(2 * ORDERS).await;
    let claim = ClaimRequest {
        processor: Some(ProcessorKind::Pull),
        ..claim_by(NODE_A, 2 * ORDERS)
    };
    for ceiling in [SECOND, 2 * SECOND, 4 * SECOND] {
        for lease in harness.store().claim(claim).await.unwrap().leases {
            let failure = Failure {
                error: "no stock".to_owned(),
                permanent: false,
                retry_after: None,
            };
            outside
                .fail(lease.order.order_id, lease.token, failure)
                .await
                .unwrap();
        }
        assert_jittered(&waits(&harness, &ids).await, ceiling);
        harness.advance(ceiling).await;
    }
    harness.store().close().await;
}

#[tokio::test]
async fn simulated_processing_takes_two_five_or_ten_seconds() {
    let harness = Harness::sqlite().await;
    let mut orders = Vec::new();
    for (items, seconds) in [(1, 2), (2, 2), (3, 5), (10, 5), (11, 10), (1_000, 10)] {
        let order = NewOrder {
            items: Items::of_ids(&vec![7; items]).unwrap(),
            ..new_order()
        };
        let id = harness.accept(vec![order]).await[0];
        orders.push((harness.order(id).await, seconds));
    }
    let epochs = harness.epochs().await;
    harness.store().close().await;
    tokio::time::pause();
    for (speed, failure_rate) in [(1.0, 0.0), (4.0, 0.0)] {
        let simulated = Simulated { speed, failure_rate };
        for (order, seconds) in &orders {
            let began = Instant::now();
            let attempt = Attempt {
                number: 1,
                fence: 1,
                token: TokenSecret::of([0; 16]).token(order.order_id, 1),
                key: epochs.attempt_key(order),
            };
            let processed = simulated.process(order, attempt).await.unwrap();
            assert_eq!(processed, Processed::COMPLETED);
            let takes = Duration::from_secs(*seconds).div_f64(speed);
            // Timer precision.
            let took = began.elapsed();
            assert!(
                took >= takes && took <= takes + Duration::from_millis(1),
                "{took:?}"
            );
        }
    }
}
