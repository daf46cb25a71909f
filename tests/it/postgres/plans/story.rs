//! A table with a past, and statistics that are wrong about it.

use orderly::order::{OrderId, OrderStatus};

use super::super::scene::Scene;
use super::PAGE_ORDERS;
use crate::support::make::{NODE_A, claim_by};

/// Enough that a walk past them shows, at some 300 pages of the table.
pub const FINISHED: i64 = 20_000;
/// Of every kind of the other orders.
pub const OF_EACH_KIND: i64 = 15;
/// Of those that wait for a time to come.
pub const WAITING: i64 = 2_000;
/// Whose the finished orders are, and whose the others.
pub const BIG_USER: i64 = 1;
pub const SMALL_USER: i64 = 7;

/// What the planner believes, which is true in the first case alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    Fresh,
    /// From before anything was stored.
    OfAnEmptyTable,
    /// From when all orders that are finished now had this status.
    AllIn(OrderStatus),
}

pub const ALL_STATISTICS: [Statistics; 5] = [
    Statistics::Fresh,
    Statistics::OfAnEmptyTable,
    Statistics::AllIn(OrderStatus::Pending),
    Statistics::AllIn(OrderStatus::Processing),
    Statistics::AllIn(OrderStatus::Completed),
];

/// The first line; the second, due and not, with suspects and without; leases that run and that ran out; what ended
/// otherwise.
const OTHERS: &str = "
insert into orderly.orders (order_id, status, version, attempts, generation, crashes, token, node, created_at,
    changed_at, processing_at, finished_at, lease_expires_at, due_at, user_id, total_amount, item_ids)
select nextval('orderly.order_ids'), status, 3, 1, 0, crashes, 1, 7, now(), now(),
    case when status > 0 then now() end, case when status > 1 then now() end, now() + lease, now() + due,
    :small_user, 100, '1,2'
from (values
    (0, 0, null::interval, null::interval), (0, 0, null, '-1 second'), (0, 0, null, '1 hour'),
    (0, 2, null, '-1 second'), (0, 2, null, '1 hour'), (1, 0, '1 hour', null), (1, 0, '-1 second', null),
    (3, 0, null, null), (4, 0, null, null)) as kind (status, crashes, lease, due),
    generate_series(1, case when due = '1 hour' then :waiting else :of_each_kind end)";

/// With a key and an event each.
const FINISHED_ORDERS: &str = "
insert into orderly.orders (order_id, status, version, attempts, generation, crashes, token, created_at, changed_at,
    processing_at, finished_at, user_id, total_amount, item_ids, reference)
select nextval('orderly.order_ids'), 2, 3, 1, 0, 0, 1, now(), now(), now(), now(), :big_user, 100, '1,2', 'order ' || n
from generate_series(1, :finished) as n;
insert into orderly.idempotency_keys (scope, key, fingerprint, order_ids, created_at)
select 'orders', 'key ' || n, '\\x00', array[n], now() from generate_series(1, :finished) as n;
insert into orderly.batches (batch, events, first_position)
select nextval('orderly.batch_ids'), 1, n from generate_series(1, :finished) as n;
insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt)
select n, 0, n, 1, 0, 0, now(), 0 from generate_series(1, :finished) as n;
update orderly.queue set last_position = :finished;";

/// The first half stays completed.
const HALF_CANCELLED: &str = "
update orderly.orders set status = case when reference is null or substr(reference, 7)::int > :finished / 2
    then 4 else 2 end
where user_id = :big_user";

const COUNTED: &str = "
update orderly.counters set
    pending = (select count(*) from orderly.orders where status = 0),
    processing = (select count(*) from orderly.orders where status = 1),
    completed = (select count(*) from orderly.orders where status = 2),
    failed = (select count(*) from orderly.orders where status = 3),
    cancelled = (select count(*) from orderly.orders where status = 4)
where slot = 0";

/// A session keeps the plans of functions: the one that explains has those from when there was nothing, unless statistics
/// were gathered since. Nothing is stored.
const USED_WHILE_EMPTY: &str = "
select from orderly.accept('{}', '{}', '{}', '{}', '{}', 1::int2);
select from orderly.accept_keyed('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', 1::int2);
select from orderly.claim(places => 10, claiming_node => 10, lease_micros => 1000, takes_suspects => 1, is_outside => 0, is_handed_out => 0, known_processor => -1,
    known_ordering => 0, second_first => 0, above => 0, spare => 4, counter_slot => 1, claim_lock => 1);
select from orderly.settle('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', 1::int2);";

const ANALYZE: &str = "analyze orderly.orders, orderly.idempotency_keys, orderly.batches, orderly.events";

/// The feed of such a store, as if nobody had numbered it until now: the statistics are from before. Answers how many pages
/// may have to be read past what the numbering left dead, until that is cleaned up.
///
/// Readers clean up behind themselves, but only what they know that nobody needs. Their idea of that is coarse: while a
/// transaction writes anywhere on the server, in another test's database too, the first of them may have to walk past
/// everything.
pub async fn numbered_late(scene: &Scene) -> u64 {
    let unnumber =
        "update orderly.batches set first_position = null; update orderly.queue set last_position = 0;
        vacuum orderly.batches";
    for statement in unnumber.split(';').chain([ANALYZE]) {
        scene.admin.batch_execute(statement).await.unwrap();
    }
    while scene.store.events_after(None, 1).await.unwrap().unplaced {
        scene.store.history(OrderId(FINISHED), 0).await.unwrap();
    }
    let dead = "select (pg_relation_size('orderly.batches') + pg_relation_size('orderly.batches_unnumbered'))
        / current_setting('block_size')::int8";
    u64::try_from(scene.number(dead).await).unwrap()
}

/// A store with orders of every kind, and accepted after them so many that are finished, first those that were
/// completed, then those that were cancelled: whatever walks past orders instead of finding them walks far.
pub async fn story(statistics: Statistics, finished: i64) -> Option<Scene> {
    let scene = Scene::new().await?;
    // To be caught. It finds nothing.
    let claim = claim_by(NODE_A, PAGE_ORDERS);
    scene.store.claim(claim).await.unwrap();
    scene.admin.batch_execute(USED_WHILE_EMPTY).await.unwrap();
    let run = async |statements: &str| {
        let statements = statements
            .replace(":finished", &finished.to_string())
            .replace(":of_each_kind", &OF_EACH_KIND.to_string())
            .replace(":waiting", &WAITING.to_string())
            .replace(":big_user", &BIG_USER.to_string())
            .replace(":small_user", &SMALL_USER.to_string());
        let run = scene.admin.batch_execute(&statements).await;
        run.unwrap_or_else(|error| panic!("{error:?} in {statements}"));
    };
    for table in ["orders", "idempotency_keys", "batches", "events"] {
        run(&format!(
            "alter table orderly.{table} set (autovacuum_enabled = off)"
        ))
        .await;
    }
    if statistics == Statistics::OfAnEmptyTable {
        run(ANALYZE).await;
    }
    run(OTHERS).await;
    run(FINISHED_ORDERS).await;
    if let Statistics::AllIn(status) = statistics {
        let status = OrderStatus::ALL.iter().position(|one| *one == status).unwrap();
        run(&format!(
            "update orderly.orders set status = {status} where user_id = :big_user"
        ))
        .await;
        run(ANALYZE).await;
    }
    run(HALF_CANCELLED).await;
    run(COUNTED).await;
    // Dead entries are another subject; this gathers no statistics.
    run("vacuum (index_cleanup on) orderly.orders").await;
    if statistics == Statistics::Fresh {
        run(ANALYZE).await;
    }
    Some(scene)
}
