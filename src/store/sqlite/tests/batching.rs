//! Statements for many orders have the same effect as one statement per order.

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

/// A store without its threads: transactions run directly on the connection.
struct BareStore {
    connection: Connection,
    ordering: Ordering,
    _folder: tempfile::TempDir,
}

impl BareStore {
    fn new(ordering: Ordering) -> BareStore {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let mut connection = open_writer(&path).unwrap();
        migrations::apply(&path, &mut connection).unwrap();
        // Equal epochs make the leases of two stores comparable.
        let epoch = "update epochs set identity = 1, secret = zeroblob(16)";
        connection.execute(epoch, []).unwrap();
        BareStore {
            connection,
            ordering,
            _folder: folder,
        }
    }

    /// Runs one transaction at this second.
    fn at<T>(&self, second: i64, work: impl FnOnce(&mut Group<'_>) -> T) -> T {
        let transaction = self.connection.unchecked_transaction().unwrap();
        let mut totals = Totals::read(&transaction).unwrap();
        totals.ordering = self.ordering;
        let mut group = Group::new(&transaction, Timestamp::from_micros(second * 1_000_000), totals);
        let answer = work(&mut group);
        group.write_accepted_events().unwrap();
        group.finish().0.write(&transaction).unwrap();
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
            claim::claim(group, &request, &choice, &choose::StartOptions::default())
        });
        claimed
            .unwrap_or_else(|_| panic!("the claim is carried out"))
            .0
            .leases
    }

    fn cancel(&self, order_id: i64) {
        self.at(2, |group| {
            assert!(cancel::cancel(group, OrderId(order_id), None).is_ok());
        });
    }

    /// All rows of all tables that calls change.
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
    let mut indexes: Vec<usize> = (0..keys.len()).collect();
    // By order id, as `complete` writes its events.
    indexes.sort_by_key(|index| keys[*index].order_id);
    let mut settled = vec![Settled::Stale; keys.len()];
    for index in indexes {
        settled[index] = settle::settle(group, keys[index], &Outcome::COMPLETED).unwrap();
    }
    settled
}

/// A change to the claimed orders or to the list of results, made before the results are stored.
type Disturbance = fn(&BareStore, &mut Vec<LeaseKey>);

const DISTURBANCES: [(&str, Disturbance); 7] = [
    ("all hold their leases", |_, _| {}),
    ("one was cancelled", |store, _| store.cancel(4)),
    ("one was given back and claimed again", |store, _| {
        let set_expiry = "update orders set lease_expires_at = 0 where order_id = 6";
        store.connection.execute(set_expiry, []).unwrap();
        let request = GiveBack {
            node: NODE,
            crashes_max: 5,
            after: None,
        };
        store.at(2, |group| {
            assert!(give_back::give_back_expired(group, &request).is_ok());
        });
        let again = store.claim(3, 1);
        assert_eq!(
            (again[0].order.order_id, again[0].fence),
            (OrderId(6), FIRST_FENCE + 1)
        );
    }),
    ("one result has a fence that was never granted", |_, keys| {
        keys[5].fence += 1;
    }),
    ("one result comes twice", |_, keys| keys.insert(3, keys[7])),
    ("two results are missing", |_, keys| {
        keys.remove(8);
        keys.remove(2);
    }),
    ("the results come in reverse order", |_, keys| keys.reverse()),
];

#[test]
fn completing_many_attempts_at_once_equals_completing_each() {
    for ordering in [Ordering::None, Ordering::by_user(OnFailure::Skip)] {
        for (name, disturb) in DISTURBANCES {
            let results = [complete_one_by_one, |group: &mut Group<'_>, keys: &[LeaseKey]| {
                settle::complete(group, keys).unwrap()
            }]
            .map(|complete| {
                let store = BareStore::new(Ordering::None);
                store.accept(ORDERS);
                let leases = store.claim(2, ORDERS);
                let mut keys: Vec<LeaseKey> = leases.iter().map(Lease::key).collect();
                assert_eq!(keys.len(), ORDERS);
                disturb(&store, &mut keys);
                let store = BareStore { ordering, ..store };
                let settled = store.at(4, |group| complete(group, &keys));
                (settled, store.rows())
            });
            assert_eq!(results[0], results[1], "{name}, {ordering:?}");
        }
    }
}

/// The statement that writes checks the fence, independently of earlier reads.
#[test]
fn the_statement_that_completes_a_run_checks_every_fence() {
    let store = BareStore::new(Ordering::None);
    store.accept(3);
    store.claim(2, 3);
    store
        .connection
        .execute("update orders set fence = 9 where order_id = 2", [])
        .unwrap();
    let completed = store
        .connection
        .execute(include_str!("../complete_run.sql"), (1, 3, FIRST_FENCE, 5));
    assert_eq!(completed, Ok(2));
}

#[test]
fn starting_many_orders_at_once_equals_starting_each() {
    for cancelled in [&[][..], &[5], &[1, 2, 7, 9]] {
        let results = [1, ORDERS].map(|claimed_at_once| {
            let store = BareStore::new(Ordering::None);
            store.accept(ORDERS);
            for order_id in cancelled {
                store.cancel(*order_id);
            }
            let mut leases = Vec::new();
            while leases.len() < ORDERS - cancelled.len() {
                leases.extend(store.claim(3, claimed_at_once));
            }
            let ids: BTreeSet<OrderId> = leases.iter().map(|lease| lease.order.order_id).collect();
            assert_eq!(ids.len(), leases.len());
            (format!("{leases:?}"), store.rows())
        });
        assert_eq!(results[0], results[1], "without {cancelled:?}");
    }
}

#[test]
fn accepting_many_orders_at_once_equals_accepting_each() {
    let results = [1, ORDERS].map(|accepted_at_once| {
        let store = BareStore::new(Ordering::None);
        for _ in 0..ORDERS / accepted_at_once {
            store.accept(accepted_at_once);
        }
        store.rows()
    });
    assert_eq!(results[0], results[1]);
}
