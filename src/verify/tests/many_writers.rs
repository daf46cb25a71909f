//! What is judged otherwise on a store whose orders are accepted by many writers at the same time.

use std::time::Duration;

use super::*;
use crate::store::snapshot::EVERY_EARLIER;

/// Orders 1 and 2, created this long one after the other, the second started first.
fn overtaken(apart: Duration) -> Hand {
    let mut hand = Hand::default().of_many_writers();
    for (id, kind) in [(1, Accepted), (2, Accepted), (2, Started), (1, Started)] {
        hand.then(id, kind);
    }
    postpone(&mut hand, 2, apart);
    hand
}

/// Has an order come so much later, with all that happened to it.
fn postpone(hand: &mut Hand, id: i64, by: Duration) {
    let record = hand.order(id);
    record.order.created_at = record.order.created_at.plus(by);
    record.order.processing_at = record.order.processing_at.map(|time| time.plus(by));
    for stored in &mut record.events {
        stored.event.at = stored.event.at.plus(by);
    }
}

#[tokio::test]
async fn orders_under_way_at_the_same_time_may_start_either_way() {
    for seconds in [0, 1, 29] {
        assert_eq!(found(overtaken(Duration::from_secs(seconds))).await, []);
    }
}

#[tokio::test]
async fn an_order_that_was_surely_accepted_earlier_must_not_be_overtaken() {
    for seconds in [32, 60, 61, 3_600] {
        let hand = overtaken(Duration::from_secs(seconds));
        assert_eq!(found(hand).await, [(Promise::FifoStart, Some(2))], "{seconds} s");
    }
}

#[tokio::test]
async fn an_order_that_still_waits_must_not_be_overtaken_by_a_much_later_one() {
    for (seconds, breaches) in [(10, 0), (40, 1), (3_600, 1)] {
        let mut hand = Hand::default().of_many_writers();
        for (id, kind) in [(1, Accepted), (2, Accepted), (2, Started)] {
            hand.then(id, kind);
        }
        postpone(&mut hand, 2, Duration::from_secs(seconds));
        let report = verify(&mut hand).await.unwrap();
        assert_eq!(report.breaches_total, breaches, "{seconds} s: {report}");
    }
}

/// Orders 1 to 3, a minute apart, of which 1 starts last.
fn passed_over() -> Hand {
    let mut hand = Hand::default().of_many_writers();
    for id in 1..=3 {
        hand.then(id, Accepted);
    }
    for id in [2, 3, 1] {
        hand.then(id, Started);
    }
    for (id, seconds) in [(2, 60), (3, 120)] {
        postpone(&mut hand, id, Duration::from_secs(seconds));
    }
    hand
}

#[tokio::test]
async fn only_starts_whose_claim_passed_an_order_over_may_overtake_it() {
    for (by, wrong) in [(vec![], vec![2, 3]), (vec![2], vec![3]), (vec![2, 3], vec![])] {
        let mut hand = passed_over();
        for id in &by {
            hand.event(*id, 2).passed_over.push(OrderId(1));
        }
        let expected: Vec<_> = wrong.iter().map(|id| (Promise::FifoStart, Some(*id))).collect();
        assert_eq!(found(hand).await, expected, "passed over by {by:?}");
    }
}

#[tokio::test]
async fn a_start_of_given_orders_may_overtake_and_a_claim_may_not() {
    let mut hand = passed_over();
    hand.event(2, 2).passed_over.push(EVERY_EARLIER);
    assert_eq!(found(hand).await, [(Promise::FifoStart, Some(3))]);
}

#[tokio::test]
async fn an_order_that_was_passed_over_may_still_wait() {
    for (by, breaches) in [(vec![2, 3], 0), (vec![2], 1)] {
        let mut hand = Hand::default().of_many_writers();
        for (id, kind) in [
            (1, Accepted),
            (2, Accepted),
            (3, Accepted),
            (2, Started),
            (3, Started),
        ] {
            hand.then(id, kind);
        }
        for (id, seconds) in [(2, 60), (3, 120)] {
            postpone(&mut hand, id, Duration::from_secs(seconds));
        }
        for id in by {
            hand.event(id, 2).passed_over.push(OrderId(1));
        }
        let report = verify(&mut hand).await.unwrap();
        assert_eq!(report.breaches_total, breaches, "{report}");
    }
}

/// An order may be created before one that drew its id earlier, and still counts by its own time.
#[tokio::test]
async fn ids_that_do_not_rise_with_the_times_hide_nothing() {
    let mut hand = Hand::default().of_many_writers();
    for id in 1..=4 {
        hand.then(id, Accepted);
    }
    for id in [2, 3, 4, 1] {
        hand.then(id, Started);
    }
    // Of these only the last was created when the first had surely been accepted.
    for (id, seconds) in [(2, 29), (3, 20), (4, 45)] {
        postpone(&mut hand, id, Duration::from_secs(seconds));
    }
    assert_eq!(found(hand).await, [(Promise::FifoStart, Some(4))]);
}

#[tokio::test]
async fn a_key_may_have_orders_of_others_between_its_own_but_none_out_of_turn() {
    let many_writers = || sound().of_many_writers();
    let mut hand = many_writers();
    hand.keys.push(key("c", [1, 3, 9].into_iter()));
    assert_eq!(found(hand).await, []);
    for ids in [[3, 1], [2, 2], [9, 10]] {
        let mut hand = many_writers();
        hand.keys.push(key("c", ids.into_iter()));
        assert_eq!(
            found(hand).await,
            [(Promise::IdempotencyKeys, Some(ids[0]))],
            "{ids:?}"
        );
    }
}
