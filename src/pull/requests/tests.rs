//! Queue of lease requests without a store: order of service, waiting, and unclaimed leases.

use futures_util::FutureExt;
use tokio::task::JoinHandle;

use super::*;
use crate::epoch::{AttemptKey, EpochIdentity, TokenSecret};
use crate::lease::NodeId;
use crate::money::Money;
use crate::order::{Items, NewOrder, Order, OrderId, OrderStatus, UserId};
use crate::time::Timestamp;

const MINUTE: Duration = Duration::from_mins(1);

fn requests() -> Arc<LeaseRequests> {
    LeaseRequests::new(Arc::default(), Metrics::new())
}

fn wanted(orders_max: usize, wait: Duration) -> Wanted {
    Wanted {
        orders_max,
        wait,
        lease: MINUTE,
    }
}

fn leases(ids: std::ops::RangeInclusive<i64>) -> Vec<Lease> {
    ids.map(|id| Lease {
        order: Order {
            order_id: OrderId(id),
            request: NewOrder {
                user_id: UserId::Number(1),
                items: Items::of_ids(&[7]).unwrap(),
                total_amount: Money::parse("1", 2).unwrap(),
                currency: None,
                reference: None,
                metadata: None,
                start_after: None,
                deadline: None,
                hold: None,
            },
            status: OrderStatus::Processing,
            version: 2,
            attempts: 1,
            generation: 0,
            created_at: Timestamp::from_micros(0),
            processing_at: Some(Timestamp::from_micros(1)),
            finished_at: None,
            next_attempt_at: None,
            held_at: None,
            milestone: None,
            overdue: false,
            last_error: None,
            result: None,
        },
        fence: 1,
        token: TokenSecret::of([0; 16]).token(OrderId(1), 1),
        attempt_key: AttemptKey {
            accepted_in: EpochIdentity(1),
            order_id: OrderId(1),
            generation: 0,
        },
        node: NodeId(1),
        suspect: false,
    })
    .collect()
}

fn ids(leases: &[Lease]) -> Vec<i64> {
    leases.iter().map(|lease| lease.order.order_id.0).collect()
}

type Asking = JoinHandle<Result<Vec<i64>, TakeError>>;

/// Sends a request and returns once it is waiting.
async fn ask(requests: &Arc<LeaseRequests>, wanted: Wanted) -> Asking {
    let before = requests.state().arrivals;
    let asking = {
        let requests = requests.clone();
        tokio::spawn(async move {
            requests
                .take(wanted)
                .await
                .map(|granted| ids(&granted.into_leases()))
        })
    };
    while requests.state().arrivals == before {
        tokio::task::yield_now().await;
    }
    asking
}

#[tokio::test(start_paused = true)]
async fn requests_are_served_in_order_of_arrival() {
    let requests = requests();
    let first = ask(&requests, wanted(2, MINUTE)).await;
    let second = ask(&requests, wanted(2, MINUTE)).await;
    let third = ask(&requests, wanted(2, MINUTE)).await;
    let batch = requests.next_batch();
    assert_eq!((batch.orders_max(), batch.lease()), (6, MINUTE));
    requests.serve(batch, leases(1..=3));
    assert_eq!(first.await.unwrap().unwrap(), [1, 2]);
    assert_eq!(second.await.unwrap().unwrap(), [3]);
    let fourth = ask(&requests, wanted(1, MINUTE)).await;
    requests.serve(requests.next_batch(), leases(4..=6));
    assert_eq!(third.await.unwrap().unwrap(), [4, 5], "it kept its place");
    assert_eq!(fourth.await.unwrap().unwrap(), [6]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_serves_requests_with_one_lease_time_up_to_its_maximum() {
    let requests = requests();
    let mut asking = Vec::new();
    for _ in 0..3 {
        asking.push(ask(&requests, wanted(100, MINUTE)).await);
    }
    let longer = Wanted {
        lease: 2 * MINUTE,
        ..wanted(1, MINUTE)
    };
    asking.push(ask(&requests, longer).await);
    for (orders_max, lease) in [(200, MINUTE), (100, MINUTE), (1, 2 * MINUTE), (0, Duration::ZERO)] {
        let batch = requests.next_batch();
        assert_eq!((batch.orders_max(), batch.lease()), (orders_max, lease));
        requests.serve(batch, leases(1..=i64::try_from(orders_max).unwrap()));
    }
    for asking in asking {
        assert!(!asking.await.unwrap().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_without_wait_gets_an_empty_answer_while_others_wait() {
    let requests = requests();
    let waits = ask(&requests, wanted(1, MINUTE)).await;
    let asks_once = ask(&requests, wanted(1, Duration::ZERO)).await;
    let batch = requests.next_batch();
    let came_later = ask(&requests, wanted(1, Duration::ZERO)).await;
    requests.serve(batch, Vec::new());
    assert_eq!(asks_once.await.unwrap().unwrap(), [] as [i64; 0]);
    assert!(!came_later.is_finished(), "no claim ran since it arrived");
    requests.serve(requests.next_batch(), Vec::new());
    assert_eq!(came_later.await.unwrap().unwrap(), [] as [i64; 0]);
    assert!(!waits.is_finished());
    assert_eq!(waits.await.unwrap().unwrap(), [] as [i64; 0], "after its minute");
    assert!(!requests.has_waiting());
}

#[tokio::test(start_paused = true)]
async fn a_request_may_time_out_while_a_claim_runs_for_it() {
    let requests = requests();
    let lucky = ask(&requests, wanted(1, MINUTE)).await;
    let batch = requests.next_batch();
    tokio::time::advance(2 * MINUTE).await;
    requests.serve(batch, leases(1..=1));
    assert_eq!(lucky.await.unwrap().unwrap(), [1]);
    let unlucky = ask(&requests, wanted(1, MINUTE)).await;
    let batch = requests.next_batch();
    tokio::time::advance(2 * MINUTE).await;
    requests.serve(batch, Vec::new());
    assert_eq!(unlucky.await.unwrap().unwrap(), [] as [i64; 0]);
    assert!(!requests.has_waiting());
}

#[tokio::test(start_paused = true)]
async fn leases_of_a_dropped_request_are_returned() {
    let requests = requests();
    let in_line = ask(&requests, wanted(1, MINUTE)).await;
    in_line.abort();
    assert!(in_line.await.is_err());
    assert!(!requests.has_waiting());

    let claimed_for = ask(&requests, wanted(2, MINUTE)).await;
    let batch = requests.next_batch();
    claimed_for.abort();
    assert!(claimed_for.await.is_err());
    requests.serve(batch, leases(1..=2));
    assert_eq!(ids(&requests.returned()), [1, 2]);

    let gone = ask(&requests, wanted(1, MINUTE)).await;
    let next = ask(&requests, wanted(1, MINUTE)).await;
    let batch = requests.next_batch();
    gone.abort();
    assert!(gone.await.is_err());
    requests.serve(batch, leases(1..=1));
    assert_eq!(
        next.await.unwrap().unwrap(),
        [1],
        "waiting requests get them first"
    );

    // Granted but not picked up.
    let mut take = Box::pin(requests.take(wanted(1, MINUTE)));
    assert!((&mut take).now_or_never().is_none());
    requests.serve(requests.next_batch(), leases(3..=3));
    assert!(!requests.has_returned());
    drop(take);
    assert_eq!(ids(&requests.returned()), [3]);
    assert!(!requests.has_returned());
    // The return woke the dispatcher.
    requests.wakeups.work().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_further_requests() {
    let requests = requests();
    let mut waiting = Vec::new();
    for _ in 0..WAITING_MAX {
        let mut take = Box::pin(requests.take(wanted(1, MINUTE)));
        assert!((&mut take).now_or_never().is_none());
        waiting.push(take);
    }
    let refused = requests.take(wanted(1, MINUTE)).await;
    assert!(matches!(refused, Err(TakeError::Full)));
    waiting.pop();
    let mut takes_its_place = Box::pin(requests.take(wanted(1, MINUTE)));
    assert!((&mut takes_its_place).now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn requests_keep_waiting_while_the_store_fails() {
    let requests = requests();
    let waits = ask(&requests, wanted(1, MINUTE)).await;
    let asks_once = ask(&requests, wanted(1, Duration::ZERO)).await;
    requests.put_off(requests.next_batch(), StoreError::DiskFull);
    assert!(matches!(asks_once.await.unwrap(), Err(TakeError::Store(_))));
    assert!(!waits.is_finished());
    requests.serve(requests.next_batch(), leases(1..=1));
    assert_eq!(waits.await.unwrap().unwrap(), [1]);

    let in_vain = ask(&requests, wanted(1, MINUTE)).await;
    requests.put_off(requests.next_batch(), StoreError::DiskFull);
    assert!(
        matches!(in_vain.await.unwrap(), Err(TakeError::Store(_))),
        "after its minute"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_behind_others_that_wait_in_vain_does_not_wake_the_dispatcher() {
    let requests = requests();
    let woken = || requests.wakeups.work().now_or_never().is_some();
    let _first = ask(&requests, wanted(1, MINUTE)).await;
    assert!(woken());
    let _during_the_claim = {
        let batch = requests.next_batch();
        let second = ask(&requests, wanted(1, MINUTE)).await;
        assert!(woken());
        requests.serve(batch, Vec::new());
        second
    };
    let _third = ask(&requests, wanted(1, MINUTE)).await;
    assert!(!woken());
    let _asks_once = ask(&requests, wanted(1, Duration::ZERO)).await;
    assert!(woken());
}

#[tokio::test(start_paused = true)]
async fn closing_answers_all_requests() {
    let requests = requests();
    let waits = ask(&requests, wanted(1, MINUTE)).await;
    let asks_once = ask(&requests, wanted(1, Duration::ZERO)).await;
    requests.close();
    assert_eq!(waits.await.unwrap().unwrap(), [] as [i64; 0]);
    assert_eq!(asks_once.await.unwrap().unwrap(), [] as [i64; 0]);
    assert!(matches!(
        requests.take(wanted(1, MINUTE)).await,
        Err(TakeError::Closed)
    ));
}
