//! What is done to many orders by one statement is what would have been done to one after another.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::super::connection::open_writer;
use super::super::group::{Group, Totals};
use super::super::{accept, cancel, choose, claim, give_back, migrations, settle};
use super::batch;
use crate::epoch::FENCE_BITS;
use crate::lease::{Lease, LeaseKey, NodeId, Outcome};
use crate::order::{OnFailure, OrderId, Ordering};
use crate::store::{ClaimRequest, GiveBack, Settled};
use crate::time::Timestamp;

const NODE: NodeId = NodeId(7);
const LEASE: Duration = Duration::from_secs(30);
const ORDERS: usize = 12;
/// The fence of a first claim in a new store.
const FIRST_FENCE: u64 = (1 << FENCE_BITS) + 1;

/// A store without its threads.
struct Scene {
    connection: Connection,
    ordering: Ordering,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(ordering: Ordering) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let mut connection = open_writer(&path).unwrap();
        migrations::apply(&path, &mut connection).unwrap();
        // Leases of two scenes are compared.
        let epoch = "update epochs set identity = 1, secret = zeroblob(16)";
        connection.execute(epoch, []).unwrap();
        Scene {
            connection,
            ordering,
            _folder: folder,
        }
    }

    /// One transaction at this second.
    fn at<T>(&self, second: i64, work: impl FnOnce(&mut Group<'_>) -> T) -> T {
        let transaction = self.connection.unchecked_transaction().unwrap();
        let mut totals = Totals::read(&transaction).unwrap();
        totals.ordering = self.ordering;
        let mut group = Group::new(&transaction, Timestamp::from_micros(second * 1_000_000), totals);
        let answer = work(&mut group);
        group.write_accepted().unwrap();
        group.end().0.write(&transaction).unwrap();
        transaction.commit().unwrap();
        answer
    }

    fn accept(&self, orders: usize) {
        self.at(1, |group| {
            let accepted = accept::accept(group, &batch()[..orders], None, None);
            assert!(accepted.is_ok_and(|accepted| accepted.order_ids.len() == orders));
        });
    }

    fn claim(&self, second: i64, orders_max: usize) -> Vec<Lease> {
        let request = ClaimRequest {
            node: NODE,
            orders_max,
            lease: LEASE,
            suspect: true,
            processor: None,
        };
        let choice = claim::Choice::Next(Arc::new(AtomicBool::new(false)));
        let claimed = self.at(second, |group| {
            claim::claim(group, &request, &choice, &choose::Care::default())
        });
        claimed
            .unwrap_or_else(|_| panic!("the claim is carried out"))
            .0
            .leases
    }

    fn cancel(&self, order_id: i64) {
        self.at(2, |group| {
            assert!(cancel::cancel(group, OrderId(order_id)).is_ok());
        });
    }

    /// Every row of every table that calls change.
    fn rows(&self) -> Vec<(&'static str, Vec<Value>)> {
        let mut rows = Vec::new();
        for table in ["orders", "events", "counters"] {
            let query = format!("select * from {table} order by 1");
            let mut statement = self.connection.prepare(&query).unwrap();
            let columns = statement.column_count();
            let found = statement
                .query_map([], |row| (0..columns).map(|column| row.get(column)).collect())
                .unwrap();
            rows.extend(found.map(|row: Result<Vec<Value>, _>| (table, row.unwrap())));
        }
        rows
    }
}

fn complete_one_by_one(group: &mut Group<'_>, keys: &[LeaseKey]) -> Vec<Settled> {
    let mut places: Vec<usize> = (0..keys.len()).collect();
    // In the order in which the events of orders that are completed together are written.
    places.sort_by_key(|place| keys[*place].order_id);
    let mut settled = vec![Settled::Stale; keys.len()];
    for place in places {
        settled[place] = settle::settle(group, keys[place], &Outcome::COMPLETED).unwrap();
    }
    settled
}

/// What happens to the claimed orders before their results come, and which results come.
type Twist = fn(&Scene, &mut Vec<LeaseKey>);

const TWISTS: [(&str, Twist); 7] = [
    ("all hold their leases", |_, _| {}),
    ("one was cancelled", |scene, _| scene.cancel(4)),
    ("one was given back and claimed again", |scene, _| {
        let set_expiry = "update orders set lease_expires_at = 0 where order_id = 6";
        scene.connection.execute(set_expiry, []).unwrap();
        let request = GiveBack {
            node: NODE,
            crashes_max: 5,
            after: None,
        };
        scene.at(2, |group| {
            assert!(give_back::give_back_expired(group, &request).is_ok());
        });
        let again = scene.claim(3, 1);
        assert_eq!(
            (again[0].order.order_id, again[0].fence),
            (OrderId(6), FIRST_FENCE + 1)
        );
    }),
    ("one comes with a fence that was not given", |_, keys| {
        keys[5].fence += 1;
    }),
    ("one comes twice", |_, keys| keys.insert(3, keys[7])),
    ("some do not come", |_, keys| {
        keys.remove(8);
        keys.remove(2);
    }),
    ("they come in another order", |_, keys| keys.reverse()),
];

#[test]
fn attempts_completed_together_end_as_they_would_one_by_one() {
    for ordering in [Ordering::None, Ordering::User(OnFailure::Skip)] {
        for (twist, play) in TWISTS {
            let told = [complete_one_by_one, |group: &mut Group<'_>, keys: &[LeaseKey]| {
                settle::complete(group, keys).unwrap()
            }]
            .map(|complete| {
                let scene = Scene::new(Ordering::None);
                scene.accept(ORDERS);
                let leases = scene.claim(2, ORDERS);
                let mut keys: Vec<LeaseKey> = leases.iter().map(Lease::key).collect();
                assert_eq!(keys.len(), ORDERS);
                play(&scene, &mut keys);
                let scene = Scene { ordering, ..scene };
                let settled = scene.at(4, |group| complete(group, &keys));
                (settled, scene.rows())
            });
            assert_eq!(told[0], told[1], "{twist}, {ordering:?}");
        }
    }
}

/// The statement that writes checks the fence itself, whatever was read before it.
#[test]
fn the_statement_that_completes_many_checks_each_token() {
    let scene = Scene::new(Ordering::None);
    scene.accept(3);
    scene.claim(2, 3);
    scene
        .connection
        .execute("update orders set fence = 9 where order_id = 2", [])
        .unwrap();
    let completed = scene
        .connection
        .execute(include_str!("../complete_run.sql"), (1, 3, FIRST_FENCE, 5));
    assert_eq!(completed, Ok(2));
}

#[test]
fn orders_started_together_start_as_they_would_one_by_one() {
    for cancelled in [&[][..], &[5], &[1, 2, 7, 9]] {
        let told = [1, ORDERS].map(|claimed_at_once| {
            let scene = Scene::new(Ordering::None);
            scene.accept(ORDERS);
            for order_id in cancelled {
                scene.cancel(*order_id);
            }
            let mut leases = Vec::new();
            while leases.len() < ORDERS - cancelled.len() {
                leases.extend(scene.claim(3, claimed_at_once));
            }
            let ids: BTreeSet<OrderId> = leases.iter().map(|lease| lease.order.order_id).collect();
            assert_eq!(ids.len(), leases.len());
            (format!("{leases:?}"), scene.rows())
        });
        assert_eq!(told[0], told[1], "without {cancelled:?}");
    }
}

#[test]
fn orders_accepted_together_are_told_of_as_they_would_be_one_by_one() {
    let told = [1, ORDERS].map(|accepted_at_once| {
        let scene = Scene::new(Ordering::None);
        for _ in 0..ORDERS / accepted_at_once {
            scene.accept(accepted_at_once);
        }
        scene.rows()
    });
    assert_eq!(told[0], told[1]);
}
