//! Random operations against a plain model of the state machine. The model defines the allowed steps and the resulting
//! orders; where the trait leaves the choice of due orders open, the store decides.

use std::time::Duration;

use orderly::lease::{LeaseKey, NodeId};
use orderly::order::{OrderId, Patch};
use orderly::store::{Acted, Amended, ClaimRequest, GiveBack, RedriveOptions};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::Harness;
use crate::support::harness::{held, ids_of, recount};
use crate::support::make::{NODE_A, NODE_B, claim_by, heartbeat, new_order};

mod machine;
mod order;
mod steps;

use machine::{CRASHES_MAX, Model};
use order::ModelOrder;
use steps::{SetAside, Step, step};

/// Enough for every pair of steps to meet often, within seconds.
const RUNS: u32 = 96;
/// Fewer where every step is a round trip to a server. Each run draws new ones.
const RUNS_ON_A_SERVER: u32 = 12;
const STEPS_MAX: usize = 80;

#[test]
fn random_operations_match_the_model() {
    random_operations_match_the_model_on(RUNS, async || Some(Harness::sqlite().await));
}

#[test]
fn random_operations_match_the_model_on_postgres() {
    random_operations_match_the_model_on(RUNS_ON_A_SERVER, Harness::postgres);
}

#[test]
fn random_operations_match_the_model_behind_a_pooler() {
    random_operations_match_the_model_on(RUNS_ON_A_SERVER, Harness::pooled);
}

/// Runs each sequence on its own store, or none where `harness` returns `None`.
pub fn random_operations_match_the_model_on(runs: u32, harness: impl AsyncFn() -> Option<Harness>) {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(runs)
    };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(step(), 1..STEPS_MAX), |steps| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            if let Some(harness) = harness().await {
                run_steps(harness, steps).await;
            }
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

async fn run_steps(harness: Harness, steps: Vec<Step>) {
    let mut run = Run {
        harness,
        model: Model::default(),
        granted: Vec::new(),
    };
    for step in steps {
        run.take(step).await;
    }
    run.assert_table_is_model().await;
    run.harness.assert_sound().await;
    run.harness.store().close().await;
}

struct Run {
    harness: Harness,
    model: Model,
    /// Every lease ever granted, so that stale ones are tried too.
    granted: Vec<LeaseKey>,
}

impl Run {
    async fn take(&mut self, step: Step) {
        let now = self.harness.now().await;
        match step {
            Step::Accept { orders, set_aside } => {
                let order = match set_aside {
                    SetAside::No => new_order(),
                    SetAside::Held => held(),
                    SetAside::Scheduled(sevens) => {
                        self.harness.scheduled(Duration::from_secs(7 * sevens)).await
                    }
                };
                let ids = self.harness.accept(vec![order.clone(); orders]).await;
                self.model.accept(&ids, &order, now);
            }
            Step::Claim {
                by_b,
                orders_max,
                suspect,
            } => {
                let request = ClaimRequest {
                    suspect,
                    ..claim_by(node(by_b), orders_max)
                };
                self.claim(request).await;
            }
            Step::Start {
                by_b,
                orders,
                orders_max,
                suspect,
            } if !self.model.orders.is_empty() => {
                let request = ClaimRequest {
                    suspect,
                    ..claim_by(node(by_b), orders_max)
                };
                let given: Vec<OrderId> = orders.iter().map(|order| self.model.pick(*order)).collect();
                self.start(&given, request).await;
            }
            Step::Crash { orders_max } => {
                self.claim(claim_by(NODE_B, orders_max)).await;
                self.harness.advance(Duration::from_secs(7 * 5)).await;
                self.give_back(NODE_A).await;
            }
            Step::Settle { lease, outcome } if !self.granted.is_empty() => {
                let key = *lease.get(&self.granted);
                let settled = self.harness.store().settle(key, outcome.clone()).await.unwrap();
                assert_eq!(settled, self.model.settle(key, &outcome, now));
            }
            Step::Renew { by_b } => {
                let node = node(by_b);
                let (kept, all) = self.model.leases_of(node, &self.granted);
                let renewed = self.harness.store().renew(heartbeat(node, &all)).await.unwrap();
                assert_eq!(renewed.lost.len(), all.len() - kept.len());
                assert!(renewed.lost.iter().all(|lost| !kept.contains(lost)));
                self.model.renew(node, &kept, now);
            }
            Step::GiveBack { by_b } => self.give_back(node(by_b)).await,
            Step::Cancel { order } if !self.model.orders.is_empty() => {
                let id = self.model.pick(order);
                let acted = self.harness.store().cancel(id, None).await.unwrap();
                assert_eq!(matches!(acted, Acted::Done(_)), self.model.cancel(id, now));
            }
            Step::Redrive { order } if !self.model.orders.is_empty() => {
                let id = self.model.pick(order);
                let acted = self
                    .harness
                    .store()
                    .redrive(id, RedriveOptions::default())
                    .await
                    .unwrap();
                assert_eq!(matches!(acted, Acted::Done(_)), self.model.redrive(id, now));
            }
            Step::Hold { order } if !self.model.orders.is_empty() => {
                let id = self.model.pick(order);
                let acted = self.harness.store().hold(id, None).await.unwrap();
                assert_eq!(matches!(acted, Acted::Done(_)), self.model.hold(id));
            }
            Step::Release { order } if !self.model.orders.is_empty() => {
                let id = self.model.pick(order);
                let acted = self.harness.store().release(id, None).await.unwrap();
                assert_eq!(matches!(acted, Acted::Done(_)), self.model.release(id, now));
            }
            Step::Amend {
                order,
                start_after,
                deadline,
                stale,
            } if !self.model.orders.is_empty() => {
                let id = self.model.pick(order);
                let version = self.model.orders[&id].version - u32::from(stale);
                let patch = Patch {
                    start_after: start_after.from(now),
                    deadline: deadline.from(now),
                    ..Patch::default()
                };
                let amended = self
                    .harness
                    .store()
                    .amend(id, version, patch.clone())
                    .await
                    .unwrap();
                if stale {
                    assert!(matches!(amended, Amended::Moved(_)), "{amended:?}");
                } else {
                    assert_eq!(
                        matches!(amended, Amended::Done(_)),
                        self.model.amend(id, &patch, now)
                    );
                }
            }
            Step::Milestone { order } if !self.model.orders.is_empty() => {
                let id = self.model.pick(order);
                self.harness.milestone(id, "packed").await;
                self.model.milestone(id);
            }
            Step::FireTimers => {
                let fired = self.harness.fire_timers().await;
                let numbers = (fired.entered, fired.overdue, fired.next_in);
                assert_eq!(numbers, self.model.fire_timers(now));
            }
            Step::Pause(paused) => {
                let store = self.harness.store();
                let changed = if paused {
                    store.pause(None).await
                } else {
                    store.resume().await
                };
                changed.unwrap();
                self.model.paused = paused;
            }
            Step::Advance { sevens } => self.harness.advance(Duration::from_secs(7 * sevens)).await,
            Step::Reopen => self.harness.reopen().await,
            Step::Start { .. }
            | Step::Settle { .. }
            | Step::Cancel { .. }
            | Step::Redrive { .. }
            | Step::Hold { .. }
            | Step::Release { .. }
            | Step::Amend { .. }
            | Step::Milestone { .. } => {}
        }
    }

    async fn claim(&mut self, request: ClaimRequest) {
        let now = self.harness.now().await;
        let claimed = self.harness.store().claim(request).await.unwrap();
        self.model.assert_claim_is_legal(&request, &claimed.leases, now);
        for lease in &claimed.leases {
            self.granted.push(lease.key());
            self.model.start(lease, request.node, now);
        }
        self.model.assert_next_due(&request, claimed.next_due_in, now);
    }

    async fn start(&mut self, given: &[OrderId], request: ClaimRequest) {
        let now = self.harness.now().await;
        let started = self.harness.store().start(given.into(), request).await.unwrap();
        let expected = self.model.startable(given, &request, now);
        assert_eq!(ids_of(&started.leases), expected, "of {given:?}");
        for lease in &started.leases {
            self.granted.push(lease.key());
            self.model.start(lease, request.node, now);
        }
    }

    async fn give_back(&mut self, asking: NodeId) {
        let request = GiveBack {
            node: asking,
            crashes_max: CRASHES_MAX,
            after: None,
        };
        let given = self.harness.store().give_back_expired(request).await.unwrap();
        assert_eq!(given, self.model.give_back(asking, self.harness.now().await));
    }

    async fn assert_table_is_model(&self) {
        let records = self.harness.records().await;
        assert_eq!(records.len(), self.model.orders.len());
        for record in &records {
            let expected = &self.model.orders[&record.order.order_id];
            assert_eq!(ModelOrder::of(&record.order, record.crashes), expected.visible());
            assert_eq!(record.set_aside, expected.is_set_aside());
            let lease = record
                .lease
                .map(|lease| (lease.node, lease.fence, lease.expires_at));
            let granted = expected
                .lease
                .map(|granted| (granted.node, granted.fence, granted.expires_at));
            assert_eq!(lease, granted, "order {}", record.order.order_id);
        }
        let counted = recount(&records);
        assert_eq!(self.harness.counters().await, counted);
        assert_eq!(self.harness.paused().await, self.model.paused);
    }
}

fn node(is_b: bool) -> NodeId {
    if is_b { NODE_B } else { NODE_A }
}
