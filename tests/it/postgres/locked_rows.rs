//! A lock on one order's row in any table: each call continues with the other orders, and with that one once it is unlocked
//! (issue 14).

use std::time::Duration;

use futures_util::future::join_all;
use orderly::lease::{Lease, Outcome};
use orderly::order::{NewOrder, OrderId, OrderStatus};
use orderly::store::clock::system_clock;
use orderly::store::{Acted, ExternalHold, ExternalLease, RedriveOptions, Settled};
use orderly::time::Timestamp;

use super::locked_claims::{Locker, accept, claim};
use super::setup::Setup;
use crate::support::make::{LEASE, NODE_A, claim_by, give_back_by, heartbeat, order_of, retry_after};
use crate::support::until;

/// Orders of a test; the second one is locked.
const ORDERS: usize = 3;

/// The state of the orders, which determines the tables of their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    FirstLine,
    /// The order is in backoff, due in an hour.
    BacksOff,
    Due,
    /// Blocked by a running order of the same user.
    Blocked,
    /// The order is in backoff, due in an hour, and no claim has given any order its turn yet.
    BlockedAndBacksOff,
    Leased,
    /// Scheduled for a time in an hour.
    SetAside,
}

impl Place {
    fn tables(self) -> [&'static str; 2] {
        let table = match self {
            Place::FirstLine => "first_line",
            Place::BacksOff | Place::Due => "second_line",
            Place::Blocked | Place::BlockedAndBacksOff => "blocked",
            Place::Leased => "leases",
            Place::SetAside => "set_aside",
        };
        [table, "orders"]
    }

    fn needs_turns(self) -> bool {
        matches!(self, Place::Blocked | Place::BlockedAndBacksOff)
    }
}

fn in_an_hour() -> Timestamp {
    system_clock()().plus(Duration::from_hours(1))
}

/// Orders in one state, one of which gets locked.
struct LockTest {
    setup: Setup,
    ids: Vec<OrderId>,
    /// Leases of the running attempts: of these orders, or of those that block them.
    leases: Vec<Lease>,
}

impl LockTest {
    async fn set_up(place: Place) -> Option<LockTest> {
        let setup = Setup::new().await?;
        let store = &setup.store;
        if place.needs_turns() {
            let by_user = "update orderly.queue set ordering = 1";
            setup.admin.batch_execute(by_user).await.unwrap();
        }
        let orders: Vec<_> = (1..=ORDERS)
            .map(|user| NewOrder {
                start_after: (place == Place::SetAside).then(in_an_hour),
                ..order_of(user.try_into().unwrap())
            })
            .collect();
        let mut ids = store.accept(orders.clone().into(), None).await.unwrap().order_ids;
        let mut leases = Vec::new();
        if !matches!(place, Place::FirstLine | Place::SetAside) {
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
            Place::FirstLine | Place::Leased | Place::SetAside => {}
        }
        let stands = format!("select count(*) from orderly.{}", place.tables()[0]);
        assert_eq!(setup.number(&stands).await, 3, "{place:?}");
        Some(LockTest { setup, ids, leases })
    }

    async fn lock(&self, table: &str) -> Locker {
        Locker::of_rows(&self.setup, table, &self.ids[1..2]).await
    }

    /// Makes the calls while the row is locked, and unlocks it once the query `done` counts two finished ones.
    async fn around_lock<T>(
        &self,
        table: &str,
        calls: impl Iterator<Item: Future<Output = T>>,
        done: &str,
    ) -> Vec<T> {
        let locker = self.lock(table).await;
        let (answers, ()) = tokio::join!(join_all(calls), async {
            until(&format!("the others are done: {done}"), async || {
                self.setup.number(done).await >= 2
            })
            .await;
            locker.release().await;
        });
        answers
    }
}

/// Runs a test in each state, with a lock in each table of that state.
macro_rules! staged {
    ($places:expr, $test:expr) => {
        for place in $places {
            for table in Place::tables(place) {
                let Some(test) = LockTest::set_up(place).await else {
                    return;
                };
                $test(&test, table).await;
                test.setup.end().await;
            }
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_starts_all_but_the_locked_order() {
    staged!(
        [Place::FirstLine, Place::Due, Place::Blocked],
        async |test: &LockTest, table: &str| {
            let ids = &test.ids;
            for lease in &test.leases {
                test.setup
                    .store
                    .settle(lease.key(), Outcome::COMPLETED)
                    .await
                    .unwrap();
            }
            let locker = test.lock(table).await;
            // A claim does not write the table of orders.
            let (others, then) = match table {
                "orders" => (ids.clone(), vec![]),
                _ => (vec![ids[0], ids[2]], vec![ids[1]]),
            };
            assert_eq!(claim(&*test.setup.store, 10).await, others, "{table}");
            assert_eq!(claim(&*test.setup.store, 10).await, [], "{table}");
            locker.release().await;
            assert_eq!(claim(&*test.setup.store, 10).await, then, "{table}");
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_waits_only_for_rows_of_its_own_order() {
    let places = [
        Place::FirstLine,
        Place::Due,
        Place::BacksOff,
        Place::Blocked,
        Place::BlockedAndBacksOff,
        Place::Leased,
        Place::SetAside,
    ];
    staged!(places, async |test: &LockTest, table: &str| {
        let cancel = async |id: &OrderId| test.setup.store.cancel(*id, None).await.unwrap();
        let done = "select count(*) from orderly.cancelled";
        for acted in test.around_lock(table, test.ids.iter().map(cancel), done).await {
            assert!(matches!(acted, Acted::Done(_)), "{table}: {acted:?}");
        }
        assert_eq!(test.setup.number(done).await, 3);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_and_a_release_wait_only_for_rows_of_their_own_order() {
    let places = [Place::FirstLine, Place::BacksOff, Place::Blocked, Place::SetAside];
    staged!(places, async |test: &LockTest, table: &str| {
        let store = &test.setup.store;
        let hold = async |id: &OrderId| store.hold(*id, None).await.unwrap();
        let set_aside = "select count(*) from orderly.set_aside where held_at is not null";
        for acted in test
            .around_lock(table, test.ids.iter().map(hold), set_aside)
            .await
        {
            assert!(matches!(acted, Acted::Done(_)), "{table}: {acted:?}");
        }
        assert_eq!(test.setup.number(set_aside).await, 3);
        let release = async |id: &OrderId| store.release(*id, None).await.unwrap();
        let released = "select count(*) from orderly.batches where kind = 10";
        for acted in test
            .around_lock("set_aside", test.ids.iter().map(release), released)
            .await
        {
            assert!(matches!(acted, Acted::Done(_)), "{table}: {acted:?}");
        }
        assert_eq!(test.setup.number(set_aside).await, 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_waits_only_for_rows_of_its_own_order() {
    staged!(
        [Place::BacksOff, Place::BlockedAndBacksOff],
        async |test: &LockTest, table: &str| {
            let redrive = async |id: &OrderId| {
                test.setup
                    .store
                    .redrive(*id, RedriveOptions::default())
                    .await
                    .unwrap()
            };
            let done = "select count(*) from orderly.batches where kind = 8";
            for acted in test.around_lock(table, test.ids.iter().map(redrive), done).await {
                assert!(matches!(acted, Acted::Done(_)), "{table}: {acted:?}");
            }
            // Sorted by the times of their redrives.
            let mut started = claim(&*test.setup.store, 10).await;
            started.sort_unstable();
            assert_eq!(started, test.ids);
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_lease_or_order_does_not_affect_other_results() {
    staged!([Place::Leased], async |test: &LockTest, table: &str| {
        let settle = async |lease: &Lease| {
            let settled = test.setup.store.settle(lease.key(), Outcome::COMPLETED).await;
            settled.unwrap()
        };
        let done = "select count(*) from orderly.orders where status = 2";
        for settled in test
            .around_lock(table, test.leases.iter().map(settle), done)
            .await
        {
            assert_eq!(settled, Settled::Done(OrderStatus::Completed), "{table}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_hold_waits_only_for_its_own_lease() {
    staged!([Place::Leased], async |test: &LockTest, table: &str| {
        let hold = async |lease: &Lease| {
            let hold = ExternalHold {
                lease: LEASE,
                run_max: LEASE * 2,
            };
            test.setup.store.hold_external(lease.key(), hold).await.unwrap()
        };
        let done = "select count(*) from orderly.leases where outside";
        for held in test.around_lock(table, test.leases.iter().map(hold), done).await {
            assert!(matches!(held, ExternalLease::Until(_)), "{table}: {held:?}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_renews_all_but_the_locked_lease() {
    staged!([Place::Leased], async |test: &LockTest, table: &str| {
        let keys: Vec<_> = test.leases.iter().map(Lease::key).collect();
        let locker = test.lock(table).await;
        let mut beat = heartbeat(NODE_A, &keys);
        beat.lease = Duration::from_hours(2);
        let renewed = test.setup.store.renew(beat).await.unwrap();
        let left = if table == "leases" { vec![keys[1]] } else { vec![] };
        assert_eq!((renewed.lost, &renewed.locked), (vec![], &left), "{table}");
        let long =
            "select count(*) from orderly.leases where expires_at > clock_timestamp() + interval '1 hour'";
        assert_eq!(
            test.setup.number(long).await,
            3 - i64::try_from(left.len()).unwrap()
        );
        locker.release().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_takes_back_all_but_the_locked_order() {
    staged!([Place::Leased], async |test: &LockTest, table: &str| {
        let run_out = "update orderly.leases set expires_at = clock_timestamp() - interval '1 second'";
        test.setup.admin.batch_execute(run_out).await.unwrap();
        let locker = test.lock(table).await;
        for (pending, locker) in [(2, Some(locker)), (1, None)] {
            let given_back = test
                .setup
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

/// An earlier order of the user returns to Pending and takes the turn from a locked one.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_turn_passes_once_it_is_unlocked() {
    let Some(test) = LockTest::set_up(Place::Blocked).await else {
        return;
    };
    let store = &test.setup.store;
    let earlier: Vec<OrderId> = test.leases.iter().map(|lease| lease.order.order_id).collect();
    for lease in &test.leases {
        store.cancel(lease.order.order_id, None).await.unwrap();
    }
    // Gives the turn to the later orders.
    assert_eq!(claim(&**store, 0).await, []);
    let waits = "select count(*) from orderly.first_line";
    assert_eq!(test.setup.number(waits).await, 3);
    let locker = test.lock("first_line").await;
    for id in &earlier {
        store.redrive(*id, RedriveOptions::default()).await.unwrap();
    }
    let free = accept(&**store, 1).await;
    assert_eq!(claim(&**store, 10).await, [free[0], earlier[0], earlier[2]]);
    assert_eq!(claim(&**store, 10).await, []);
    locker.release().await;
    assert_eq!(claim(&**store, 10).await, [earlier[1]]);
    test.setup.end().await;
}
