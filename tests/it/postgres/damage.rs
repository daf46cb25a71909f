//! Contradictions between tables: `verify` finds each kind (issue 14).

use orderly::lease::Outcome;
use orderly::verify::{self, Promise};
use tokio_postgres::Client;

use crate::support::Harness;
use crate::support::make::{failed, retry_after};

/// The tables that hold orders.
const TABLES: [&str; 9] = [
    "orders",
    "history",
    "first_line",
    "second_line",
    "blocked",
    "leases",
    "failed",
    "cancelled",
    "batches",
];

/// A copy of the tables, from which they are restored after each test of damage.
pub struct TableCopy(Client);

impl TableCopy {
    pub async fn create(harness: &Harness) -> TableCopy {
        harness.number_all_events().await;
        let copy = TableCopy(harness.home().admin().await);
        copy.0.batch_execute("create schema kept").await.unwrap();
        copy.for_each(|table| format!("create table kept.{table} as table orderly.{table}"))
            .await;
        copy
    }

    pub async fn tamper(&self, statement: &str) {
        assert!(self.0.execute(statement, &[]).await.unwrap() > 0, "{statement}");
    }

    pub async fn restore(&self) {
        self.for_each(|table| {
            format!("delete from orderly.{table}; insert into orderly.{table} select * from kept.{table}")
        })
        .await;
    }

    async fn for_each(&self, statement: impl Fn(&str) -> String) {
        let statements = TABLES.map(statement);
        self.0.batch_execute(&statements.join("; ")).await.unwrap();
    }
}

/// A store with the orders 1 to 6: Completed, Failed, Cancelled, in backoff, Processing, Pending.
async fn store_of_six_orders() -> Option<Harness> {
    let harness = Harness::postgres().await?;
    let ids = harness.accept_some(6).await;
    let leases = harness.claim(4).await;
    let ends = [
        Outcome::COMPLETED,
        failed(),
        retry_after(3_600),
        retry_after(3_600),
    ];
    for (lease, outcome) in leases.iter().zip(ends) {
        harness.settle(lease, outcome).await;
    }
    harness.cancel(ids[2]).await;
    assert_eq!(harness.claim(1).await[0].order.order_id, ids[4]);
    Some(harness)
}

/// A statement that does damage, and the beginning of a breach that `verify` must find.
const TAMPERINGS: [(&str, &str); 39] = [
    // An event is missing in the feed.
    (
        "update orderly.batches set order_ids = array_remove(order_ids, 1) where kind = 0",
        "order 1: its history and the feed differ at version 1",
    ),
    (
        "delete from orderly.batches where kind = 2",
        "order 1: its history and the feed differ at version 3",
    ),
    (
        "delete from orderly.batches where kind = 2",
        "the feed has",
    ),
    // The history lacks an event or a number.
    (
        "update orderly.orders set started_in = null, ended_in = null where order_id = 1",
        "order 1: its history and the feed differ at version 2",
    ),
    (
        "update orderly.orders set history = history[2:] where order_id = 4",
        "order 4: its history and the feed differ at version 2",
    ),
    (
        "update orderly.orders set history = null where order_id = 4",
        "order 4: its history and the feed differ at version 3",
    ),
    (
        "update orderly.orders set version = version - 1 where order_id = 3",
        "order 3: its history and the feed differ at version 4",
    ),
    // A time, attempt, node, error, kind or batch differs.
    (
        "update orderly.batches set at = at + interval '1 second' where kind = 0",
        "order 6: its history and the feed differ at version 1",
    ),
    (
        "update orderly.orders set created_at = created_at + interval '1 second' where order_id = 6",
        "order 6: its history and the feed differ at version 1",
    ),
    (
        "update orderly.orders set processing_at = processing_at - interval '1 second' where order_id = 1",
        "order 1: its history and the feed differ at version 2",
    ),
    (
        "update orderly.orders set finished_at = finished_at + interval '1 second' where order_id = 1",
        "order 1: its history and the feed differ at version 3",
    ),
    (
        "update orderly.leases set started_at = started_at + interval '1 second'",
        "order 5: its history and the feed differ at version 2",
    ),
    (
        "update orderly.orders set history[1].at = history[1].at - interval '1 second' where order_id = 4",
        "order 4: its history and the feed differ at version 2",
    ),
    (
        "update orderly.batches set attempts = '{2}' where kind = 4",
        "order 2: its history and the feed differ at version 3",
    ),
    (
        "update orderly.leases set attempt = 2",
        "order 5: its history and the feed differ at version 2",
    ),
    (
        "update orderly.orders set history[2].attempt = 2 where order_id = 4",
        "order 4: its history and the feed differ at version 3",
    ),
    (
        "update orderly.batches set node = node + 1 where kind = 1 and order_ids = '{5}'",
        "order 5: its history and the feed differ at version 2",
    ),
    (
        "update orderly.orders set node = node + 1 where order_id = 1",
        "order 1: its history and the feed differ at version 2",
    ),
    (
        "update orderly.leases set node = node + 1",
        "order 5: its history and the feed differ at version 2",
    ),
    (
        "update orderly.batches set errors = '{other}' where kind = 4",
        "order 2: its history and the feed differ at version 3",
    ),
    (
        "update orderly.orders set last_error = null where order_id = 2",
        "order 2: its history and the feed differ at version 3",
    ),
    (
        "update orderly.orders set history[2].error = 'other' where order_id = 4",
        "order 4: its history and the feed differ at version 3",
    ),
    (
        "update orderly.orders set history[2].kind = 5 where order_id = 4",
        "order 4: its history and the feed differ at version 3",
    ),
    (
        "update orderly.orders set history[2].batch = 1 where order_id = 4",
        "order 4: its history and the feed differ at version 3",
    ),
    // An open order has no line or lease, or two; an ended one has one; an order does not exist.
    ("delete from orderly.first_line", "order 6 is open and stands in 0"),
    ("delete from orderly.second_line", "order 4 is open and stands in 0"),
    ("delete from orderly.leases", "order 5 is open and stands in 0"),
    (
        "insert into orderly.first_line values (5)",
        "order 5 is open and stands in 2",
    ),
    (
        "insert into orderly.second_line values (6, now(), false)",
        "order 6 is open and stands in 2",
    ),
    (
        "insert into orderly.blocked values (4, 104, now(), null, false)",
        "order 4 is open and stands in 2",
    ),
    (
        "insert into orderly.first_line values (1)",
        "order 1 is ended and stands in 1",
    ),
    (
        "insert into orderly.leases select 2, fence, node, version, attempt, started_at, started_in, expires_at, false, false
         from orderly.leases",
        "order 2 is ended and stands in 1",
    ),
    (
        "insert into orderly.first_line values (99)",
        "order 99 waits or runs and is not there",
    ),
    // The list of failed or cancelled orders is wrong.
    ("delete from orderly.failed", "order 2 is missing in the list"),
    ("delete from orderly.cancelled", "order 3 is missing in the list"),
    (
        "insert into orderly.failed values (3, 104)",
        "order 3 is listed as failed and is not",
    ),
    (
        "insert into orderly.cancelled values (6, 104)",
        "order 6 is listed as cancelled and is not",
    ),
    (
        "update orderly.failed set user_id = 105",
        "order 2 is missing in the list",
    ),
    (
        "update orderly.cancelled set user_id = 105",
        "order 3 is missing in the list",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_each_contradiction_between_the_tables() {
    let Some(harness) = store_of_six_orders().await else {
        return;
    };
    harness.assert_sound().await;
    let copy = TableCopy::create(&harness).await;
    let mut missed = Vec::new();
    for (tampering, breach_start) in TAMPERINGS {
        copy.tamper(tampering).await;
        let mut snapshot = harness.store().snapshot().await.unwrap();
        let report = verify::verify(&mut *snapshot).await.unwrap();
        let is_expected = |breach: &verify::Breach| {
            breach.promise == Promise::SoundFiles && breach.detail.starts_with(breach_start)
        };
        if !report.breaches.iter().any(is_expected) {
            missed.push(format!("{tampering}: {report}"));
        }
        copy.restore().await;
    }
    assert_eq!(missed, [""; 0]);
    harness.assert_sound().await;
    harness.store().close().await;
}
