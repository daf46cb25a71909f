//! Unit tests of the breaker, with their own clock.

use super::*;

mod blame;
mod random;

const SLOTS: u32 = 16;
const REFUSED: Evidence = Evidence::Unreachable;
const AWAY: Evidence = Evidence::Unavailable { retry_after: None };
const MS: Duration = Duration::from_millis(1);

/// A breaker and its clock, without jitter so that waits are whole numbers.
struct Bench {
    breaker: CircuitBreaker,
    now: Instant,
    /// Every attempt is at a new order.
    last_order: i64,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            breaker: CircuitBreaker::new(SLOTS),
            now: Instant::now(),
            last_order: 0,
        }
    }

    fn begin(&mut self) -> Begun {
        self.last_order += 1;
        self.begin_at(self.last_order)
    }

    fn begin_at(&mut self, order: i64) -> Begun {
        self.breaker.begin(OrderId(order), self.now)
    }

    fn end(&mut self, begun: Begun, evidence: Evidence) -> Verdict {
        self.breaker.end(begun, Some(evidence), self.now, 0.0)
    }

    /// Runs an attempt that ends at once.
    fn attempt(&mut self, evidence: Evidence) -> Verdict {
        let begun = self.begin();
        self.end(begun, evidence)
    }

    /// Runs an attempt of the given duration.
    fn attempt_for(&mut self, span: Duration, evidence: Evidence) -> Verdict {
        let begun = self.begin();
        self.now += span;
        self.end(begun, evidence)
    }

    fn may_start(&self) -> usize {
        match self.breaker.allowance(100, self.now) {
            Allowance::Start(attempts) => attempts,
            Allowance::Wait(until) => {
                assert!(until > self.now, "never waits for a time in the past");
                0
            }
        }
    }

    /// Advances the clock until an attempt may start; returns by how much.
    fn wait(&mut self) -> Duration {
        match self.breaker.allowance(100, self.now) {
            Allowance::Start(_) => Duration::ZERO,
            Allowance::Wait(until) => {
                let wait = until - self.now;
                self.now = until;
                wait
            }
        }
    }

    fn state(&self) -> Breaker {
        self.breaker.state()
    }

    fn refuse_until_open(&mut self) {
        for _ in 0..UNAVAILABLE_MIN {
            self.attempt_for(SILENCE_MIN / 2, REFUSED);
        }
    }

    fn opened() -> Bench {
        let mut bench = Bench::new();
        bench.refuse_until_open();
        assert_eq!(bench.state(), Breaker::Open);
        bench
    }

    fn half_opened() -> Bench {
        let mut bench = Bench::opened();
        bench.wait();
        bench.attempt(Evidence::Good);
        assert_eq!(bench.state(), Breaker::HalfOpen);
        bench
    }
}

#[test]
fn without_any_good_answer_a_few_attempts_open_it() {
    for (bad, first) in [
        (REFUSED, Verdict::GivenBack),
        (AWAY, Verdict::PutOff),
        (Evidence::Denied, Verdict::Counts),
    ] {
        let mut bench = Bench::new();
        for verdict in [
            first,
            first,
            if first == Verdict::Counts {
                first
            } else {
                Verdict::GivenBack
            },
        ] {
            assert_eq!(bench.state(), Breaker::Closed);
            assert_eq!(bench.attempt_for(SILENCE_MIN / 2, bad), verdict);
        }
        assert_eq!(bench.state(), Breaker::Open, "{bad:?}");
    }
}

#[test]
fn after_a_quiet_time_refusals_do_not_open_it_before_a_slow_good_answer() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.now += Duration::from_hours(1);
        let good = bench.begin();
        for _ in 0..BAD_MIN {
            bench.attempt(REFUSED);
        }
        bench.now += SILENCE_MIN.saturating_sub(MS);
        assert_eq!(bench.state(), Breaker::Closed);
        bench.end(good, Evidence::Good);
    }
}

#[test]
fn a_service_that_dies_opens_it_after_few_attempts() {
    let mut bench = Bench::new();
    bench.attempt_for(50 * MS, Evidence::Good);
    let died = bench.now;
    let mut attempts = 0;
    while bench.state() == Breaker::Closed {
        bench.wait();
        bench.attempt(REFUSED);
        attempts += 1;
    }
    assert!(attempts <= UNAVAILABLE_MIN + DOUBT_ATTEMPTS + 1, "{attempts}");
    assert!(bench.now - died <= SILENCE_MIN + 50 * MS);
}

#[test]
fn failures_among_good_answers_never_open_it() {
    let mut bench = Bench::new();
    for round in 0..1_000_u32 {
        bench.attempt_for(20 * MS, Evidence::Good);
        for _ in 0..round % 40 {
            bench.attempt_for(MS, REFUSED);
            bench.attempt_for(MS, Evidence::Ailing);
        }
        assert_eq!(bench.state(), Breaker::Closed);
    }
}

/// Good answers take 5 s, with hundreds of failures between two of them.
#[test]
fn slow_good_answers_extend_the_silence_it_waits_for() {
    let mut bench = Bench::new();
    bench.attempt_for(Duration::from_secs(5), Evidence::Good);
    for _ in 0..20 {
        let slow = bench.begin();
        let until = bench.now + Duration::from_secs(5);
        while bench.now < until {
            bench.wait();
            bench.attempt_for(MS, REFUSED);
        }
        assert_eq!(bench.state(), Breaker::Closed);
        bench.end(slow, Evidence::Good);
    }
    let mut attempts = 0;
    while bench.state() == Breaker::Closed {
        bench.wait();
        bench.attempt(REFUSED);
        attempts += 1;
    }
    assert!(attempts <= 2 * DOUBT_ATTEMPTS, "{attempts}");
}

#[test]
fn a_service_that_only_ails_opens_it_later_and_its_attempts_count() {
    let mut bench = Bench::new();
    bench.attempt(Evidence::Good);
    for _ in 0..BAD_MIN {
        assert_eq!(bench.state(), Breaker::Closed);
        assert_eq!(bench.attempt_for(200 * MS, Evidence::Ailing), Verdict::Counts);
    }
    assert_eq!(bench.state(), Breaker::Open);
    bench.wait();
    assert_eq!(bench.attempt(Evidence::Ailing), Verdict::Counts);
}

#[test]
fn while_open_single_probes_start_after_growing_waits() {
    let mut bench = Bench::opened();
    for seconds in [1, 2, 4, 8, 10, 10] {
        assert_eq!(bench.may_start(), 0);
        assert_eq!(bench.wait(), Duration::from_secs(seconds));
        assert_eq!(bench.may_start(), 1);
        let probe = bench.begin();
        assert_eq!(bench.may_start(), 0, "one probe at a time");
        assert_eq!(bench.end(probe, REFUSED), Verdict::GivenBack);
        assert_eq!(bench.state(), Breaker::Open);
    }
}

#[test]
fn jitter_spreads_the_probes_of_several_nodes() {
    for (random, ms) in [(0.0, 1_000), (0.5, 750), (1.0, 500)] {
        assert_eq!(jittered(WAIT_MIN, random), MS * ms);
    }
}

#[test]
fn it_waits_as_long_as_the_service_asks_up_to_a_minute() {
    for (asked, waits) in [(1, 1), (30, 30), (3_600, 60)] {
        let mut bench = Bench::new();
        for _ in 0..UNAVAILABLE_MIN {
            let asked = Evidence::Unavailable {
                retry_after: Some(Duration::from_secs(asked)),
            };
            bench.attempt_for(SILENCE_MIN / 2, asked);
        }
        assert_eq!(bench.wait(), Duration::from_secs(waits));
    }
}

#[test]
fn attempts_running_when_it_opened_are_given_back_and_are_not_probes() {
    let mut bench = Bench::new();
    let under_way: Vec<Begun> = (0..10).map(|_| bench.begin()).collect();
    bench.refuse_until_open();
    for begun in under_way {
        assert_eq!(bench.end(begun, REFUSED), Verdict::GivenBack);
    }
    assert_eq!(bench.wait(), WAIT_MIN, "not extended");
    assert_eq!(bench.may_start(), 1);
}

#[test]
fn after_recovery_each_round_starts_twice_as_many() {
    let mut bench = Bench::half_opened();
    for room in [1, 2, 4, 8] {
        assert_eq!(bench.may_start(), room);
        let round: Vec<Begun> = (0..room).map(|_| bench.begin()).collect();
        assert_eq!(bench.may_start(), 0);
        bench.now += 10 * MS;
        for begun in round {
            bench.end(begun, Evidence::Good);
        }
    }
    assert_eq!(bench.state(), Breaker::Closed);
    assert_eq!(bench.may_start(), 100);
}

#[test]
fn attempts_hanging_from_before_do_not_count_as_running() {
    let mut bench = Bench::new();
    let hanging: Vec<Begun> = (0..SLOTS).map(|_| bench.begin()).collect();
    bench.refuse_until_open();
    bench.wait();
    bench.attempt(Evidence::Good);
    assert_eq!(bench.may_start(), 1);
    for begun in hanging {
        bench.end(begun, Evidence::Good);
    }
    assert_eq!(bench.may_start(), 1, "they say nothing about its capacity");
}

#[test]
fn while_half_open_failures_among_good_answers_do_not_reopen_it() {
    let mut bench = Bench::half_opened();
    let mut answers = 0;
    while bench.state() == Breaker::HalfOpen {
        answers += 1;
        assert!(answers < 200);
        bench.attempt_for(10 * MS, if answers % 3 == 0 { Evidence::Good } else { REFUSED });
        bench.wait();
    }
    assert_eq!(bench.state(), Breaker::Closed);
}

#[test]
fn while_half_open_a_few_failures_reopen_it_with_a_longer_wait() {
    for (bad, verdict) in [(REFUSED, Verdict::GivenBack), (Evidence::Ailing, Verdict::Counts)] {
        let mut bench = Bench::half_opened();
        let mut attempts = 0;
        while bench.state() == Breaker::HalfOpen {
            assert_eq!(bench.attempt_for(Duration::from_secs(1), bad), verdict);
            attempts += 1;
        }
        assert_eq!((bench.state(), attempts), (Breaker::Open, 3));
        assert_eq!(bench.wait(), WAIT_MIN * 2);
    }
}

/// Otherwise one hanging order would block all others until it times out.
#[test]
fn a_probe_without_an_answer_lets_another_start() {
    let mut bench = Bench::opened();
    bench.wait();
    bench.begin();
    assert_eq!(bench.wait(), PATIENCE);
    bench.attempt(Evidence::Good);
    assert_eq!(bench.state(), Breaker::HalfOpen);
    // The first still hangs and counts as running.
    assert_eq!(bench.may_start(), 0);
    assert_eq!(bench.wait(), PATIENCE);
    assert_eq!(bench.may_start(), 1);
}

#[test]
fn a_probe_without_evidence_is_followed_by_another() {
    let mut bench = Bench::opened();
    bench.wait();
    let cancelled = bench.begin();
    bench.breaker.end(cancelled, None, bench.now, 0.0);
    assert_eq!(bench.wait(), WAIT_MIN);
    assert_eq!(bench.may_start(), 1);
}

#[test]
fn it_closes_when_no_backlog_waits() {
    let mut bench = Bench::half_opened();
    let last = bench.begin();
    bench.breaker.found_no_more();
    assert_eq!(bench.state(), Breaker::HalfOpen, "one is running");
    bench.end(last, Evidence::Good);
    bench.breaker.found_no_more();
    assert_eq!(bench.state(), Breaker::Closed);
    let mut open = Bench::opened();
    open.breaker.found_no_more();
    assert_eq!(open.state(), Breaker::Open);
}

#[test]
fn after_closing_it_forgets_the_outage() {
    let mut bench = Bench::half_opened();
    bench.breaker.found_no_more();
    bench.now += Duration::from_hours(1);
    bench.attempt_for(SILENCE_MIN / 2, REFUSED);
    bench.attempt_for(SILENCE_MIN / 2, REFUSED);
    assert_eq!(bench.state(), Breaker::Closed);
    bench.attempt(REFUSED);
    assert_eq!(bench.wait(), WAIT_MIN);
}
