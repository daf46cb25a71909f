//! A lock on one row of any table in which an open order has one: each call goes on with the other orders, and with that one
//! when it is free (issue 14).

use std::time::Duration;

use futures_util::future::join_all;
use orderly::lease::{Lease, Outcome};
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{Acted, Held, OutsideHold, Settled};

use super::locked::{Locker, accept, claim};
use super::scene::Scene;
use crate::support::make::{LEASE, NODE_A, claim_by, give_back_by, heartbeat, order_of, retry_after};
use crate::support::until;

/// Orders of a scene; the second one is locked.
const ORDERS: usize = 3;

/// A place in which the orders of a scene stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    FirstLine,
    /// Due in an hour.
    BacksOff,
    Due,
    /// The order waits behind another one of its user, which runs.
    Blocked,
    /// Due in an hour, before a claim has given any order its turn.
    BlockedAndBacksOff,
    Leased,
}

impl Place {
    fn tables(self) -> [&'static str; 2] {
        let table = match self {
            Place::FirstLine => "first_line",
            Place::BacksOff | Place::Due => "second_line",
            Place::Blocked | Place::BlockedAndBacksOff => "blocked",
            Place::Leased => "leases",
        };
        [table, "orders"]
    }

    fn is_in_turn(self) -> bool {
        matches!(self, Place::Blocked | Place::BlockedAndBacksOff)
    }
}

struct Stage {
    scene: Scene,
    ids: Vec<OrderId>,
    /// The attempts that run: of these orders, or of those that they wait for.
    leases: Vec<Lease>,
}

impl Stage {
    async fn set(place: Place) -> Option<Stage> {
        let scene = Scene::new().await?;
        let store = &scene.store;
        if place.is_in_turn() {
            let by_user = "update orderly.queue set ordering = 1";
            scene.admin.batch_execute(by_user).await.unwrap();
        }
        let orders: Vec<_> = (1..=ORDERS)
            .map(|user| order_of(user.try_into().unwrap()))
            .collect();
        let mut ids = store.accept(orders.clone().into(), None).await.unwrap().order_ids;
        let mut leases = Vec::new();
        if place != Place::FirstLine {
            leases = store.claim(claim_by(NODE_A, ORDERS)).await.unwrap().leases;
            assert_eq!(leases.len(), ORDERS);
        }
        match place {
            Place::BacksOff | Place::BlockedAndBacksOff | Place::Due => {
                let seconds = if place == Place::Due { 0 } else { 3_600 };
                for lease in leases.drain(..) {
                    store.settle(lease.key(), retry_after(seconds)).await.unwrap();
                }
            }
            Place::Blocked => ids = store.accept(orders.into(), None).await.unwrap().order_ids,
            Place::FirstLine | Place::Leased => {}
        }
        let stands = format!("select count(*) from orderly.{}", place.tables()[0]);
        assert_eq!(scene.number(&stands).await, 3, "{place:?}");
        Some(Stage { scene, ids, leases })
    }

    async fn lock(&self, table: &str) -> Locker {
        Locker::of_rows(&self.scene, table, &self.ids[1..2]).await
    }

    /// Makes the calls while the row is locked, and frees it when so many others are done.
    async fn around_lock<T>(
        &self,
        table: &str,
        calls: impl Iterator<Item: Future<Output = T>>,
        done: &str,
    ) -> Vec<T> {
        let locker = self.lock(table).await;
        let (answers, ()) = tokio::join!(join_all(calls), async {
            until(&format!("the others are done: {done}"), async || {
                self.scene.number(done).await >= 2
            })
            .await;
            locker.release().await;
        });
        answers
    }
}

/// Every place with each of its tables.
macro_rules! staged {
    ($places:expr, $test:expr) => {
        for place in $places {
            for table in Place::tables(place) {
                let Some(stage) = Stage::set(place).await else {
                    return;
                };
                $test(&stage, table).await;
                stage.scene.end().await;
            }
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_starts_all_but_the_order_whose_place_is_locked() {
    staged!(
        [Place::FirstLine, Place::Due, Place::Blocked],
        async |stage: &Stage, table: &str| {
            let ids = &stage.ids;
            for lease in &stage.leases {
                stage
                    .scene
                    .store
                    .settle(lease.key(), Outcome::COMPLETED)
                    .await
                    .unwrap();
            }
            let locker = stage.lock(table).await;
            // No claim writes the orders themselves.
            let (others, then) = match table {
                "orders" => (ids.clone(), vec![]),
                _ => (vec![ids[0], ids[2]], vec![ids[1]]),
            };
            assert_eq!(claim(&*stage.scene.store, 10).await, others, "{table}");
            assert_eq!(claim(&*stage.scene.store, 10).await, [], "{table}");
            locker.release().await;
            assert_eq!(claim(&*stage.scene.store, 10).await, then, "{table}");
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_waits_for_its_own_order_wherever_that_is() {
    let places = [
        Place::FirstLine,
        Place::Due,
        Place::BacksOff,
        Place::Blocked,
        Place::BlockedAndBacksOff,
        Place::Leased,
    ];
    staged!(places, async |stage: &Stage, table: &str| {
        let cancel = async |id: &OrderId| stage.scene.store.cancel(*id).await.unwrap();
        let done = "select count(*) from orderly.cancelled";
        for acted in stage.around_lock(table, stage.ids.iter().map(cancel), done).await {
            assert!(matches!(acted, Acted::Done(_)), "{table}: {acted:?}");
        }
        assert_eq!(stage.scene.number(done).await, 3);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_waits_for_its_own_order_wherever_that_is() {
    staged!(
        [Place::BacksOff, Place::BlockedAndBacksOff],
        async |stage: &Stage, table: &str| {
            let redrive = async |id: &OrderId| stage.scene.store.redrive(*id).await.unwrap();
            let done = "select count(*) from orderly.batches where kind = 8";
            for acted in stage
                .around_lock(table, stage.ids.iter().map(redrive), done)
                .await
            {
                assert!(matches!(acted, Acted::Done(_)), "{table}: {acted:?}");
            }
            // By the times of their redrives.
            let mut started = claim(&*stage.scene.store, 10).await;
            started.sort_unstable();
            assert_eq!(started, stage.ids);
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_stored_around_a_locked_lease_or_order() {
    staged!([Place::Leased], async |stage: &Stage, table: &str| {
        let settle = async |lease: &Lease| {
            let settled = stage.scene.store.settle(lease.key(), Outcome::COMPLETED).await;
            settled.unwrap()
        };
        let done = "select count(*) from orderly.orders where status = 2";
        for settled in stage
            .around_lock(table, stage.leases.iter().map(settle), done)
            .await
        {
            assert_eq!(settled, Settled::Done(OrderStatus::Completed), "{table}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_waits_for_its_own_lease_alone() {
    staged!([Place::Leased], async |stage: &Stage, table: &str| {
        let hold = async |lease: &Lease| {
            let hold = OutsideHold {
                lease: LEASE,
                run_max: LEASE * 2,
            };
            stage.scene.store.hold_outside(lease.key(), hold).await.unwrap()
        };
        let done = "select count(*) from orderly.leases where outside";
        for held in stage
            .around_lock(table, stage.leases.iter().map(hold), done)
            .await
        {
            assert!(matches!(held, Held::Until(_)), "{table}: {held:?}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_renews_all_but_the_locked_lease() {
    staged!([Place::Leased], async |stage: &Stage, table: &str| {
        let keys: Vec<_> = stage.leases.iter().map(Lease::key).collect();
        let locker = stage.lock(table).await;
        let mut beat = heartbeat(NODE_A, &keys);
        beat.lease = Duration::from_hours(2);
        let renewed = stage.scene.store.renew(beat).await.unwrap();
        let left = if table == "leases" { vec![keys[1]] } else { vec![] };
        assert_eq!((renewed.lost, &renewed.locked), (vec![], &left), "{table}");
        let long =
            "select count(*) from orderly.leases where expires_at > clock_timestamp() + interval '1 hour'";
        assert_eq!(
            stage.scene.number(long).await,
            3 - i64::try_from(left.len()).unwrap()
        );
        locker.release().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn all_but_the_locked_order_are_taken_back() {
    staged!([Place::Leased], async |stage: &Stage, table: &str| {
        let run_out = "update orderly.leases set expires_at = clock_timestamp() - interval '1 second'";
        stage.scene.admin.batch_execute(run_out).await.unwrap();
        let locker = stage.lock(table).await;
        for (pending, locker) in [(2, Some(locker)), (1, None)] {
            let given_back = stage
                .scene
                .store
                .give_back_expired(give_back_by(NODE_A))
                .await
                .unwrap();
            assert_eq!(
                (given_back.pending, given_back.refused.len()),
                (pending, 0),
                "{table}"
            );
            if let Some(locker) = locker {
                locker.release().await;
            }
        }
    });
}

/// The earlier order of its user comes back, and takes the turn away from one that is locked where it waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_turn_goes_on_when_it_is_free() {
    let Some(stage) = Stage::set(Place::Blocked).await else {
        return;
    };
    let store = &stage.scene.store;
    let earlier: Vec<OrderId> = stage.leases.iter().map(|lease| lease.order.order_id).collect();
    for lease in &stage.leases {
        store.cancel(lease.order.order_id).await.unwrap();
    }
    // Gives the later ones their turns.
    assert_eq!(claim(&**store, 0).await, []);
    let waits = "select count(*) from orderly.first_line";
    assert_eq!(stage.scene.number(waits).await, 3);
    let locker = stage.lock("first_line").await;
    for id in &earlier {
        store.redrive(*id).await.unwrap();
    }
    let free = accept(&**store, 1).await;
    assert_eq!(claim(&**store, 10).await, [free[0], earlier[0], earlier[2]]);
    assert_eq!(claim(&**store, 10).await, []);
    locker.release().await;
    assert_eq!(claim(&**store, 10).await, [earlier[1]]);
    stage.scene.end().await;
}
