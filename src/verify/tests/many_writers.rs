//! Rules for a store whose orders are accepted by many writers at the same time.

use std::time::Duration;

use super::*;
use crate::store::snapshot::EVERY_EARLIER;

/// Orders 1 and 2, created `apart` from each other; the second starts first.
fn overtaken(apart: Duration) -> FakeStore {
    let mut store = FakeStore::default().of_many_writers();
    for (id, kind) in [(1, Accepted), (2, Accepted), (2, Started), (1, Started)] {
        store.then(id, kind);
    }
    postpone(&mut store, 2, apart);
    store
}

/// Moves an order and all its events to a later time.
fn postpone(store: &mut FakeStore, id: i64, by: Duration) {
    let record = store.order(id);
    record.order.created_at = record.order.created_at.plus(by);
    record.order.processing_at = record.order.processing_at.map(|time| time.plus(by));
    for stored in &mut record.events {
        stored.event.at = stored.event.at.plus(by);
    }
}

#[tokio::test]
async fn concurrent_orders_may_start_in_either_order() {
    for seconds in [0, 1, 29] {
        assert_eq!(found(overtaken(Duration::from_secs(seconds))).await, []);
    }
}

#[tokio::test]
async fn an_order_certainly_accepted_earlier_must_not_be_overtaken() {
    for seconds in [32, 60, 61, 3_600] {
        let store = overtaken(Duration::from_secs(seconds));
        assert_eq!(found(store).await, [(Promise::FifoStart, Some(2))], "{seconds} s");
    }
}

#[tokio::test]
async fn a_waiting_order_must_not_be_overtaken_by_a_much_later_one() {
    for (seconds, breaches) in [(10, 0), (40, 1), (3_600, 1)] {
        let mut store = FakeStore::default().of_many_writers();
        for (id, kind) in [(1, Accepted), (2, Accepted), (2, Started)] {
            store.then(id, kind);
        }
        postpone(&mut store, 2, Duration::from_secs(seconds));
        let report = verify(&mut store).await.unwrap();
        assert_eq!(report.breaches_total, breaches, "{seconds} s: {report}");
    }
}

/// Orders 1 to 3, created a minute apart; 1 starts last.
fn passed_over() -> FakeStore {
    let mut store = FakeStore::default().of_many_writers();
    for id in 1..=3 {
        store.then(id, Accepted);
    }
    for id in [2, 3, 1] {
        store.then(id, Started);
    }
    for (id, seconds) in [(2, 60), (3, 120)] {
        postpone(&mut store, id, Duration::from_secs(seconds));
    }
    store
}

#[tokio::test]
async fn only_starts_whose_claim_passed_over_an_order_may_overtake_it() {
    for (by, wrong) in [(vec![], vec![2, 3]), (vec![2], vec![3]), (vec![2, 3], vec![])] {
        let mut store = passed_over();
        for id in &by {
            store.event(*id, 2).passed_over.push(OrderId(1));
        }
        let expected: Vec<_> = wrong.iter().map(|id| (Promise::FifoStart, Some(*id))).collect();
        assert_eq!(found(store).await, expected, "passed over by {by:?}");
    }
}

#[tokio::test]
async fn a_start_of_given_orders_may_overtake_but_a_claim_may_not() {
    let mut store = passed_over();
    store.event(2, 2).passed_over.push(EVERY_EARLIER);
    assert_eq!(found(store).await, [(Promise::FifoStart, Some(3))]);
}

#[tokio::test]
async fn a_passed_over_order_may_still_wait() {
    for (by, breaches) in [(vec![2, 3], 0), (vec![2], 1)] {
        let mut store = FakeStore::default().of_many_writers();
        for (id, kind) in [
            (1, Accepted),
            (2, Accepted),
            (3, Accepted),
            (2, Started),
            (3, Started),
        ] {
            store.then(id, kind);
        }
        for (id, seconds) in [(2, 60), (3, 120)] {
            postpone(&mut store, id, Duration::from_secs(seconds));
        }
        for id in by {
            store.event(id, 2).passed_over.push(OrderId(1));
        }
        let report = verify(&mut store).await.unwrap();
        assert_eq!(report.breaches_total, breaches, "{report}");
    }
}

/// An order may be created before one that drew its id earlier; it still counts by its own time.
#[tokio::test]
async fn ids_that_do_not_rise_with_times_hide_no_breach() {
    let mut store = FakeStore::default().of_many_writers();
    for id in 1..=4 {
        store.then(id, Accepted);
    }
    for id in [2, 3, 4, 1] {
        store.then(id, Started);
    }
    // Only the last of these was created when the first had certainly been accepted.
    for (id, seconds) in [(2, 29), (3, 20), (4, 45)] {
        postpone(&mut store, id, Duration::from_secs(seconds));
    }
    assert_eq!(found(store).await, [(Promise::FifoStart, Some(4))]);
}

#[tokio::test]
async fn the_orders_of_a_key_may_be_interleaved_but_not_reordered() {
    let many_writers = || sound().of_many_writers();
    let mut store = many_writers();
    store.keys.push(key("c", [1, 3, 9].into_iter()));
    assert_eq!(found(store).await, []);
    for ids in [[3, 1], [2, 2], [9, 10]] {
        let mut store = many_writers();
        store.keys.push(key("c", ids.into_iter()));
        assert_eq!(
            found(store).await,
            [(Promise::IdempotencyKeys, Some(ids[0]))],
            "{ids:?}"
        );
    }
}
