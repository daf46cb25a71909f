//! Random sequences of attempts and their ends.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Deed {
    Begin(i64),
    End(usize, Option<Evidence>),
    Pass(u64),
    FoundNoMore,
}

fn deed() -> impl Strategy<Value = Deed> {
    let evidence = prop_oneof![
        3 => Just(Some(Evidence::Good)),
        3 => Just(Some(REFUSED)),
        1 => Just(Some(Evidence::Denied)),
        1 => (0_u64..100).prop_map(|seconds| {
            Some(Evidence::Unavailable { retry_after: Some(Duration::from_secs(seconds)) })
        }),
        2 => Just(Some(Evidence::Ailing)),
        1 => Just(None),
    ];
    prop_oneof![
        4 => (1_i64..6).prop_map(Deed::Begin),
        4 => (any::<usize>(), evidence).prop_map(|(which, evidence)| Deed::End(which, evidence)),
        2 => (0_u64..3_000).prop_map(Deed::Pass),
        1 => Just(Deed::FoundNoMore),
    ]
}

proptest! {
    /// An attempt may start after a bounded wait in every state, and good answers then close the breaker.
    #[test]
    fn it_always_recovers(deeds in prop::collection::vec(deed(), 0..300), random in 0.0_f64..=1.0) {
        let mut bench = Bench::new();
        let mut under_way = Vec::new();
        for deed in deeds {
            match deed {
                Deed::Begin(order) => {
                    let may_start = bench.may_start();
                    if bench.state() == Breaker::Open {
                        prop_assert!(may_start <= 1);
                    }
                    if may_start > 0 && under_way.len() < SLOTS as usize {
                        under_way.push(bench.begin_at(order));
                    }
                }
                Deed::End(which, evidence) => {
                    if !under_way.is_empty() {
                        let begun = under_way.swap_remove(which % under_way.len());
                        let verdict = bench.breaker.end(begun, evidence, bench.now, random);
                        let unavailable = matches!(evidence, Some(Evidence::Unavailable { .. }));
                        match verdict {
                            Verdict::Counts => prop_assert_ne!(evidence, Some(REFUSED)),
                            Verdict::GivenBack => prop_assert!(unavailable || evidence == Some(REFUSED)),
                            Verdict::PutOff => prop_assert!(unavailable),
                        }
                    }
                }
                Deed::Pass(ms) => bench.now += Duration::from_millis(ms),
                Deed::FoundNoMore => bench.breaker.found_no_more(),
            }
            let wait = match bench.breaker.allowance(100, bench.now) {
                Allowance::Start(_) => Duration::ZERO,
                Allowance::Wait(until) => until - bench.now,
            };
            prop_assert!(wait <= RETRY_AFTER_MAX, "{wait:?}");
        }
        for begun in under_way {
            bench.breaker.end(begun, None, bench.now, random);
        }
        for _ in 0..=SLOTS {
            bench.wait();
            prop_assert!(bench.may_start() >= 1);
            bench.attempt(Evidence::Good);
        }
        prop_assert_eq!(bench.state(), Breaker::Closed);
    }
}
