//! The line, without a store: who is served, who waits on, and what becomes of leases that nobody takes.

use futures_util::FutureExt;
use tokio::task::JoinHandle;

use super::*;
use crate::epoch::{AttemptKey, EpochIdentity, TokenSecret};
use crate::lease::NodeId;
use crate::money::Money;
use crate::order::{ItemIds, NewOrder, Order, OrderId, OrderStatus};
use crate::time::Timestamp;

const MINUTE: Duration = Duration::from_mins(1);

fn desk() -> Arc<Desk> {
    Desk::new(Arc::default(), Metrics::new())
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
                user_id: 1,
                item_ids: ItemIds::new(&[7]).unwrap(),
                total_amount: Money::parse("1").unwrap(),
                reference: None,
                metadata: None,
            },
            status: OrderStatus::Processing,
            version: 2,
            attempts: 1,
            generation: 0,
            created_at: Timestamp::from_micros(0),
            processing_at: Some(Timestamp::from_micros(1)),
            finished_at: None,
            next_attempt_at: None,
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

/// Asks, and stands in line when this returns.
async fn ask(desk: &Arc<Desk>, wanted: Wanted) -> Asking {
    let before = desk.state().arrivals;
    let asking = {
        let desk = desk.clone();
        tokio::spawn(async move { desk.take(wanted).await.map(|granted| ids(&granted.into_leases())) })
    };
    while desk.state().arrivals == before {
        tokio::task::yield_now().await;
    }
    asking
}

#[tokio::test(start_paused = true)]
async fn who_came_first_is_served_first() {
    let desk = desk();
    let first = ask(&desk, wanted(2, MINUTE)).await;
    let second = ask(&desk, wanted(2, MINUTE)).await;
    let third = ask(&desk, wanted(2, MINUTE)).await;
    let turn = desk.next_turn();
    assert_eq!((turn.orders_max(), turn.lease()), (6, MINUTE));
    desk.serve(turn, leases(1..=3));
    assert_eq!(first.await.unwrap().unwrap(), [1, 2]);
    assert_eq!(second.await.unwrap().unwrap(), [3]);
    let fourth = ask(&desk, wanted(1, MINUTE)).await;
    desk.serve(desk.next_turn(), leases(4..=6));
    assert_eq!(third.await.unwrap().unwrap(), [4, 5], "it kept its place");
    assert_eq!(fourth.await.unwrap().unwrap(), [6]);
}

#[tokio::test(start_paused = true)]
async fn one_claim_is_for_one_lease_time_and_no_more_orders_than_a_claim_grants() {
    let desk = desk();
    let mut asking = Vec::new();
    for _ in 0..3 {
        asking.push(ask(&desk, wanted(100, MINUTE)).await);
    }
    let longer = Wanted {
        lease: 2 * MINUTE,
        ..wanted(1, MINUTE)
    };
    asking.push(ask(&desk, longer).await);
    for (orders_max, lease) in [(200, MINUTE), (100, MINUTE), (1, 2 * MINUTE), (0, Duration::ZERO)] {
        let turn = desk.next_turn();
        assert_eq!((turn.orders_max(), turn.lease()), (orders_max, lease));
        desk.serve(turn, leases(1..=i64::try_from(orders_max).unwrap()));
    }
    for asking in asking {
        assert!(!asking.await.unwrap().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_hears_that_there_is_nothing_and_who_waits_does_not() {
    let desk = desk();
    let waits = ask(&desk, wanted(1, MINUTE)).await;
    let asks_once = ask(&desk, wanted(1, Duration::ZERO)).await;
    let turn = desk.next_turn();
    let came_later = ask(&desk, wanted(1, Duration::ZERO)).await;
    desk.serve(turn, Vec::new());
    assert_eq!(asks_once.await.unwrap().unwrap(), [] as [i64; 0]);
    assert!(!came_later.is_finished(), "nobody looked since it came");
    desk.serve(desk.next_turn(), Vec::new());
    assert_eq!(came_later.await.unwrap().unwrap(), [] as [i64; 0]);
    assert!(!waits.is_finished());
    assert_eq!(waits.await.unwrap().unwrap(), [] as [i64; 0], "after its minute");
    assert!(!desk.has_waiting());
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_request_may_be_over_while_it_is_claimed_for() {
    let desk = desk();
    let lucky = ask(&desk, wanted(1, MINUTE)).await;
    let turn = desk.next_turn();
    tokio::time::advance(2 * MINUTE).await;
    desk.serve(turn, leases(1..=1));
    assert_eq!(lucky.await.unwrap().unwrap(), [1]);
    let unlucky = ask(&desk, wanted(1, MINUTE)).await;
    let turn = desk.next_turn();
    tokio::time::advance(2 * MINUTE).await;
    desk.serve(turn, Vec::new());
    assert_eq!(unlucky.await.unwrap().unwrap(), [] as [i64; 0]);
    assert!(!desk.has_waiting());
}

#[tokio::test(start_paused = true)]
async fn leases_of_a_request_that_is_gone_come_back() {
    let desk = desk();
    let in_line = ask(&desk, wanted(1, MINUTE)).await;
    in_line.abort();
    assert!(in_line.await.is_err());
    assert!(!desk.has_waiting());

    let claimed_for = ask(&desk, wanted(2, MINUTE)).await;
    let turn = desk.next_turn();
    claimed_for.abort();
    assert!(claimed_for.await.is_err());
    desk.serve(turn, leases(1..=2));
    assert_eq!(ids(&desk.returned()), [1, 2]);

    let gone = ask(&desk, wanted(1, MINUTE)).await;
    let next = ask(&desk, wanted(1, MINUTE)).await;
    let turn = desk.next_turn();
    gone.abort();
    assert!(gone.await.is_err());
    desk.serve(turn, leases(1..=1));
    assert_eq!(next.await.unwrap().unwrap(), [1], "whoever waits has them first");

    // Handed over, and not picked up.
    let mut take = Box::pin(desk.take(wanted(1, MINUTE)));
    assert!((&mut take).now_or_never().is_none());
    desk.serve(desk.next_turn(), leases(3..=3));
    assert!(!desk.has_returned());
    drop(take);
    assert_eq!(ids(&desk.returned()), [3]);
    assert!(!desk.has_returned());
    // It woke the dispatcher.
    desk.wakeups.work().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_line_takes_nobody_more() {
    let desk = desk();
    let mut waiting = Vec::new();
    for _ in 0..WAITING_MAX {
        let mut take = Box::pin(desk.take(wanted(1, MINUTE)));
        assert!((&mut take).now_or_never().is_none());
        waiting.push(take);
    }
    let refused = desk.take(wanted(1, MINUTE)).await;
    assert!(matches!(refused, Err(TakeError::Full)));
    waiting.pop();
    let mut takes_its_place = Box::pin(desk.take(wanted(1, MINUTE)));
    assert!((&mut takes_its_place).now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn while_the_store_fails_who_waits_goes_on_to_wait() {
    let desk = desk();
    let waits = ask(&desk, wanted(1, MINUTE)).await;
    let asks_once = ask(&desk, wanted(1, Duration::ZERO)).await;
    desk.put_off(desk.next_turn(), StoreError::DiskFull);
    assert!(matches!(asks_once.await.unwrap(), Err(TakeError::Store(_))));
    assert!(!waits.is_finished());
    desk.serve(desk.next_turn(), leases(1..=1));
    assert_eq!(waits.await.unwrap().unwrap(), [1]);

    let in_vain = ask(&desk, wanted(1, MINUTE)).await;
    desk.put_off(desk.next_turn(), StoreError::DiskFull);
    assert!(
        matches!(in_vain.await.unwrap(), Err(TakeError::Store(_))),
        "after its minute"
    );
}

#[tokio::test(start_paused = true)]
async fn who_follows_others_that_wait_in_vain_wakes_nobody() {
    let desk = desk();
    let woken = || desk.wakeups.work().now_or_never().is_some();
    let _first = ask(&desk, wanted(1, MINUTE)).await;
    assert!(woken());
    let _during_the_claim = {
        let turn = desk.next_turn();
        let second = ask(&desk, wanted(1, MINUTE)).await;
        assert!(woken());
        desk.serve(turn, Vec::new());
        second
    };
    let _third = ask(&desk, wanted(1, MINUTE)).await;
    assert!(!woken());
    let _asks_once = ask(&desk, wanted(1, Duration::ZERO)).await;
    assert!(woken());
}

#[tokio::test(start_paused = true)]
async fn a_closed_desk_lets_everybody_go() {
    let desk = desk();
    let waits = ask(&desk, wanted(1, MINUTE)).await;
    let asks_once = ask(&desk, wanted(1, Duration::ZERO)).await;
    desk.close();
    assert_eq!(waits.await.unwrap().unwrap(), [] as [i64; 0]);
    assert_eq!(asks_once.await.unwrap().unwrap(), [] as [i64; 0]);
    assert!(matches!(
        desk.take(wanted(1, MINUTE)).await,
        Err(TakeError::Closed)
    ));
}
