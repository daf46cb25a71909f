//! Blame for a bad end: the order or the processor.

use super::*;

/// Issue 13, point 6: an answer to one order says nothing about others.
#[test]
fn one_order_that_is_always_turned_away_never_opens_it() {
    let asks = Evidence::Unavailable {
        retry_after: Some(Duration::from_secs(45)),
    };
    for bad in [AWAY, asks, Evidence::Denied, Evidence::Ailing] {
        let mut bench = Bench::new();
        for _ in 0..100 {
            for order in [1, 2] {
                let begun = bench.begin_at(order);
                bench.now += Duration::from_secs(1);
                bench.end(begun, bad);
            }
            assert_eq!(bench.state(), Breaker::Closed, "{bad:?}");
            assert!(bench.may_start() > 1, "{bad:?}");
        }
    }
}

#[test]
fn an_unreachable_service_never_counts() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.attempt(Evidence::Good);
        assert_eq!(bench.attempt(REFUSED), Verdict::GivenBack);
    }
    assert_eq!(bench.state(), Breaker::Closed);
    assert_eq!(Bench::opened().attempt(REFUSED), Verdict::GivenBack);
    assert_eq!(Bench::half_opened().attempt(REFUSED), Verdict::GivenBack);
}

#[test]
fn unavailable_counts_if_others_were_served_lately() {
    let mut bench = Bench::new();
    assert_eq!(bench.attempt(AWAY), Verdict::PutOff, "no order was served yet");
    bench.attempt(Evidence::Good);
    bench.now += LATELY;
    assert_eq!(bench.attempt(AWAY), Verdict::Counts);
    bench.now += MS;
    assert_eq!(bench.attempt(AWAY), Verdict::PutOff);
    assert_eq!(
        bench.attempt(AWAY),
        Verdict::GivenBack,
        "three orders: the breaker is in doubt"
    );
}

#[test]
fn a_denied_attempt_counts_in_every_state() {
    for mut bench in [Bench::new(), Bench::opened(), Bench::half_opened()] {
        assert_eq!(bench.attempt(Evidence::Denied), Verdict::Counts);
    }
}

#[test]
fn a_delay_for_one_order_does_not_apply_to_others() {
    let mut bench = Bench::new();
    let asks = Evidence::Unavailable {
        retry_after: Some(RETRY_AFTER_MAX),
    };
    bench.attempt(asks);
    bench.refuse_until_open();
    // The last of them found it open.
    assert_eq!(bench.wait(), WAIT_MIN * 2);
}
