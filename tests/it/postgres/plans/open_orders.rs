//! Costs do not grow with the number of Pending and Processing orders, in a session whose plans are from an empty store.

use orderly::order::OrderId;
use orderly::store::RedriveOptions;

use super::super::database_outage::last_lower_bound;
use super::dataset::{ALL_STATISTICS, Dataset, FINISHED, Statistics, dataset};
use super::other_statements::fault;
use super::plan::{CapturedStatement, last_message_with, of_message, of_transaction};
use super::{CLAIM, PAGE_ORDERS, PAGES_MAX};
use crate::support::make::{NODE_A, claim_by, heartbeat, new_order};
use crate::support::until;

/// Database pages that a claim of ten orders touches at most: each is found and locked in its line, and written.
const CLAIM_PAGES_MAX: u64 = 600;

/// Orders at the end of the first line, orders at the end of the second line, and orders with leases. Each order has its events in
/// one batch.
const WAITING: &str = "
insert into orderly.orders (order_id, user_id, total_amount, created_at, accepted_in, item_ids)
select n, 9, 100, now(), 1000000 + n / 100, '1,2' from generate_series(100001, 160000) as n;
insert into orderly.batches (batch, first_position, kind, at, order_ids)
select accepted_in, 1000000 + min(order_id), 0, now(), array_agg(order_id order by order_id)
from orderly.orders where user_id = 9 group by accepted_in;
insert into orderly.first_line select generate_series(100001, 120000);
insert into orderly.second_line select n, now(), false from generate_series(120001, 140000) as n;
insert into orderly.leases (order_id, fence, node, version, attempt, started_at, started_in, expires_at, outside, handed_out)
select n, 1, 10, 2, 1, now(), 1000000 + n / 100, now() + interval '1 hour', false, false
from generate_series(140001, 160000) as n;
update orderly.counters set pending = pending + 40000, processing = processing + 20000 where slot = 0;";

/// The join order matters: with the opposite one, every Pending order would be compared with every chosen one.
#[tokio::test(flavor = "multi_thread")]
async fn calls_on_an_order_cost_the_same_with_sixty_thousand_open_orders() {
    let mut faults = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(Dataset { setup, session }) = dataset(statistics, FINISHED).await else {
            return;
        };
        setup.admin.batch_execute(WAITING).await.unwrap();
        let mut found = |what: &str, fault: Option<String>| {
            faults.extend(fault.map(|fault| format!("{statistics:?}: {what}: {fault}")));
        };
        setup.store.claim(claim_by(NODE_A, PAGE_ORDERS)).await.unwrap();
        let claim = of_message(&setup, &session, CLAIM).await;
        found("claim", fault(&claim, CLAIM_PAGES_MAX));
        let settle = "select from :settle('{140001,140002}', '{1,1}', '{10,10}', '{2,3}', '{2,0}', '{f,f}', '{null,1}',
            '{null,no}', '{null,no}', '{null,null}', '{f,f}', 3::int2)";
        let settle = setup.database.named(settle).await;
        found("settle", fault(&session.plan(&settle).await, PAGES_MAX));
        setup.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        setup.store.cancel(OrderId(100_001), None).await.unwrap();
        setup
            .store
            .redrive(OrderId(120_001), RedriveOptions::default())
            .await
            .unwrap();
        setup.store.hold(OrderId(100_002), None).await.unwrap();
        setup.store.order_view(OrderId(140_001)).await.unwrap();
        setup.store.history(OrderId(140_001), 0).await.unwrap();
        setup.store.queue().await.unwrap();
        let view_orders = setup.database.named(":view_orders(").await;
        for (what, part, types, values) in [
            (
                "heartbeat",
                "A heartbeat",
                "int8[], int8[], int8, int8, int4, int4, int2, int2, int2, text, text, timestamptz, int8",
                "'{140001, 140002}', '{1, 1}', 1, 10, 1, 1, 0, 0, null, 'a', '1', now(), null",
            ),
            (
                "cancel in the first line",
                "Cancels the order that",
                "int8[], int2, int2[], int2, text, bool, text, int4",
                "'{110000}', 3, '{0,0,3}', 1, null, false, null, null",
            ),
            (
                "cancel in the second line",
                "Cancels the order that",
                "int8[], int2, int2[], int2, text, bool, text, int4",
                "'{130000}', 3, '{0,0,3}', 1, null, false, null, null",
            ),
            (
                "cancel of one that runs",
                "Cancels the order that",
                "int8[], int2, int2[], int2, text, bool, text, int4",
                "'{150000}', 3, '{0,0,3}', 1, null, false, null, null",
            ),
            (
                "redrive",
                "Redrives the orders",
                "int8[], int2, int2[], int2, text, bool, text, int4",
                "'{110000, 130000, 150000}', 3, '{0,3,4}', 0, null, false, null, null",
            ),
            (
                "hold in the first line",
                "Sets aside the orders",
                "int8[], int2, int2[], int2, text, bool, text, int4",
                "'{110000}', 3, '{0}', 2, null, false, null, null",
            ),
            (
                "hold in the second line",
                "Sets aside the orders",
                "int8[], int2, int2[], int2, text, bool, text, int4",
                "'{130000}', 3, '{0}', 2, null, false, null, null",
            ),
            ("orders", &view_orders, "int8[]", "'{110000, 130000, 150000}'"),
            (
                "history",
                "version > $2 order by version",
                "int8, int4, int8",
                "150000, 0, 100",
            ),
            ("queue", "Reads the numbers", "int8, text", "0, ''"),
        ] {
            let plan = CapturedStatement::of(&setup, what, part, types, values)
                .plan(&session)
                .await;
            found(what, fault(&plan, PAGES_MAX));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Blocked orders of one user, and of many users whose turns the next claim checks.
const BLOCKED: &str = "
insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
select -n, 9, now(), null, false from generate_series(1, 20000) as n;
insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
select -n, n, now() - interval '1 hour', null, false from generate_series(20001, 40000) as n;
insert into orderly.unseen (user_id) select n from generate_series(20001, 40000) as n;
update orderly.queue set ordering = 2";

/// Database pages for the counted orders, and for the lookup of their users among those whose turns are to be checked.
const COUNTED_PAGES_MAX: u64 = 45_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_predecessor_is_found_among_forty_thousand_blocked_orders() {
    let mut faults = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(Dataset { setup, session }) = dataset(statistics, FINISHED).await else {
            return;
        };
        setup.admin.batch_execute(BLOCKED).await.unwrap();
        let in_turn = "update orderly.queue set ordering = 1";
        setup.admin.batch_execute(in_turn).await.unwrap();
        setup.store.queue().await.unwrap();
        setup.store.explain(OrderId(1)).await.unwrap();
        let queue = CapturedStatement::of(
            &setup,
            "blocked",
            "whose turn the next claim decides; how many",
            "int8, text, int8",
            "0, '', 10000",
        );
        let plan = queue.plan(&session).await;
        // At most as many rows as are counted.
        let (pages, rows) = (plan.pages(), plan.rows());
        if pages > COUNTED_PAGES_MAX || rows > 10_000 || plan.is_compiled() {
            faults.push(format!(
                "{statistics:?}: queue: {pages} pages, {rows} rows, {plan}"
            ));
        }
        let explain =
            CapturedStatement::of(&setup, "explain", "Where order $1 stands", "int8, int8", "1, 100");
        let plan = explain.plan(&session).await;
        faults.extend(fault(&plan, 3 * PAGES_MAX).map(|fault| format!("{statistics:?}: explain: {fault}")));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Claims orders of the first line. While a session holds an old snapshot, their dead index entries stay.
const CLAIMED_BEFORE: &str = "
insert into orderly.first_line select generate_series(100001, 120000);
delete from orderly.first_line where order_id > 100000;
select setval('orderly.order_ids', 120000)";
/// Pages of the table and its index that the dead entries fill.
const PAGES_OF_CLAIMED: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_skips_dead_entries_under_an_old_snapshot() {
    let Some(Dataset { setup, session }) = dataset(Statistics::Fresh, 0).await else {
        return;
    };
    let old = setup.database.admin().await;
    let hold = "begin isolation level repeatable read; select count(*) from orderly.first_line";
    old.batch_execute(hold).await.unwrap();
    setup.admin.batch_execute(CLAIMED_BEFORE).await.unwrap();
    // An open transaction of another test on the same server keeps the lower bound from rising.
    until("the lower bound is above them", async || {
        setup.store.accept([new_order()].into(), None).await.unwrap();
        setup.store.claim(claim_by(NODE_A, 100)).await.unwrap();
        last_lower_bound(&setup) > 120_000
    })
    .await;
    setup.store.accept([new_order()].into(), None).await.unwrap();
    let message = last_message_with(&setup, CLAIM);
    let floor = format!("above => {}", last_lower_bound(&setup));
    let with_it = of_transaction(&session, &message).await.pages();
    let without = of_transaction(&session, &message.replace(&floor, "above => 0"))
        .await
        .pages();
    assert!(
        with_it + PAGES_OF_CLAIMED <= without,
        "{with_it} pages, {without} without a floor"
    );
    old.batch_execute("rollback").await.unwrap();
}
