//! The comparison of a store with a copy of its file, changed in one respect: each kind of difference must be found. The tests with
//! PostgreSQL check real copies, and that a bad copy leaves nothing behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compare::compare;
use super::*;
use crate::lease::{NodeId, Outcome};
use crate::metrics::Metrics;
use crate::money::Money;
use crate::order::{Items, NewOrder, UserId};
use crate::store::clock::system_clock;
use crate::store::open::{OpenOptions, open, open_snapshot};
use crate::store::{ClaimRequest, IdempotencyKey};

/// Stores three orders with a key each: one Completed, one Failed, one Pending.
async fn store_of_three(path: &Path) {
    let options = OpenOptions {
        peers: None,
        migrate: true,
        pending_max: None,
        metrics: Metrics::new(),
        clock: system_clock(),
        ordering: None,
    };
    let store = open(&Database::Sqlite(path.to_owned()), options).await.unwrap();
    for name in ["a", "b", "c"] {
        let order = NewOrder {
            user_id: UserId::Number(1),
            items: Items::of_ids(&[1]).unwrap(),
            total_amount: Money::parse("1", 2).unwrap(),
            currency: None,
            reference: None,
            metadata: None,
            start_after: None,
            deadline: None,
            hold: None,
        };
        let key = IdempotencyKey {
            scope: "orders".to_owned(),
            key: name.to_owned(),
            fingerprint: [0; 32],
        };
        store.accept(Arc::from([order]), Some(key)).await.unwrap();
    }
    let request = ClaimRequest {
        node: NodeId(7),
        orders_max: 2,
        lease: std::time::Duration::from_secs(30),
        suspect: false,
        processor: None,
    };
    let claimed = store.claim(request).await.unwrap();
    let failed = Outcome::Failed {
        error: "refused".to_owned(),
    };
    for (lease, outcome) in claimed.leases.iter().zip([Outcome::COMPLETED, failed]) {
        store.settle(lease.key(), outcome).await.unwrap();
    }
    store.close().await;
}

/// The differences found after `tampering` changed the copy.
async fn found(tampering: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let paths: [PathBuf; 2] = ["original.db", "copy.db"].map(|name| folder.path().join(name));
    store_of_three(&paths[0]).await;
    std::fs::copy(&paths[0], &paths[1]).unwrap();
    let copy = rusqlite::Connection::open(&paths[1]).unwrap();
    copy.execute_batch(tampering).unwrap();
    drop(copy);
    let [original, copy] = paths.map(Database::Sqlite);
    let mut original = open_snapshot(&original).await.unwrap();
    let mut copy = open_snapshot(&copy).await.unwrap();
    let compared = compare(&mut *original, &mut *copy, &Copied::default(), &mut |_| {}).await;
    let differences = compared.unwrap();
    assert_eq!(differences.shown.len() as u64, differences.total);
    differences.shown
}

#[tokio::test]
async fn an_exact_copy_has_no_differences() {
    assert_eq!(found("").await, [""; 0]);
}

#[tokio::test]
async fn positions_may_differ_but_the_order_of_the_feed_may_not() {
    let stretched = "update events set position = -position; update events set position = -2 * position + 5";
    assert_eq!(found(stretched).await, [""; 0]);
    let swapped = "update events set position = 99 where position = 4;
        update events set position = 4 where position = 5; update events set position = 5 where position = 99";
    assert_eq!(
        found(swapped).await,
        ["the feed differs from version 2 of order 1 on"]
    );
}

#[tokio::test]
async fn every_part_of_an_order_is_compared() {
    for (tampering, part) in [
        ("update orders set user_id = 2 where order_id = 2", "its request"),
        (
            "update orders set last_error = 'x' where order_id = 2",
            "its state",
        ),
        ("update orders set fence = 9 where order_id = 2", "its fence"),
        ("update orders set node = 9 where order_id = 2", "its node"),
        (
            "update orders set crashes = 9 where order_id = 2",
            "its number of crashes",
        ),
    ] {
        let found = found(tampering).await;
        assert!(
            found.contains(&format!("order 2: {part} differs")),
            "{tampering}: {found:?}"
        );
    }
    let history = "update events set at = at + 1 where order_id = 2 and version = 2";
    assert_eq!(
        found(history).await,
        [
            "order 2: its history differs",
            "the feed differs from version 2 of order 2 on"
        ]
    );
}

#[tokio::test]
async fn a_missing_or_extra_order_or_key_is_found() {
    for order_id in 1..=3 {
        let delete = format!("delete from orders where order_id = {order_id}");
        assert_eq!(found(&delete).await, [format!("order {order_id} is missing")]);
    }
    let renumbered = "update orders set order_id = 9 where order_id = 3";
    assert_eq!(
        found(renumbered).await,
        ["order 3 is missing", "order 9 is not in the source"]
    );
    assert_eq!(
        found("update idempotency_keys set key = 'B' where key = 'b'").await,
        [
            r#"idempotency key "B" of "orders" is not in the source"#,
            r#"idempotency key "b" of "orders" is missing"#
        ]
    );
    assert_eq!(
        found("update idempotency_keys set order_count = 2 where key = 'b'").await,
        [r#"idempotency key "b" of "orders": its content differs"#]
    );
}

#[tokio::test]
async fn a_missing_event_is_found() {
    assert_eq!(
        found("delete from events where position = (select max(position) from events)").await,
        [
            "order 2: its history differs",
            "the feed differs from version 3 of order 2 on"
        ]
    );
}

#[tokio::test]
async fn counters_pause_and_epochs_are_compared() {
    assert_eq!(
        found("update counters set failed = 2, paused = 1, paused_at = 5").await,
        ["the counters differ", "one queue is paused, the other is not"]
    );
    assert_eq!(
        found("update epochs set secret = zeroblob(16)").await,
        ["the epochs differ"]
    );
    assert_eq!(found("update epochs set after_position = 9").await, [""; 0]);
}
