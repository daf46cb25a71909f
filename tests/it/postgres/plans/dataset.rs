//! A store with many orders of every kind, and planner statistics that are wrong about it.

use orderly::order::{OrderId, OrderStatus};

use super::super::setup::Setup;
use super::PAGE_ORDERS;
use super::plan::Session;
use crate::support::make::{NODE_A, claim_by};

/// Finished orders. They fill hundreds of pages of each table, so that reading past them shows.
pub const FINISHED: i64 = 10_000;
/// Orders of each other kind.
pub const OF_EACH_KIND: i64 = 15;
/// Orders in backoff, for each of the two kinds that are not due.
pub const WAITING: i64 = 2_000;
/// Events per batch, for batches of several events.
pub const BATCH_EVENTS: i64 = 100;
/// The user of the finished orders, and the user of the others.
pub const BIG_USER: i64 = 1;
pub const SMALL_USER: i64 = 7;

/// The last id of each kind of other orders. The finished orders follow.
pub const FIRST_LINE: i64 = OF_EACH_KIND;
pub const DUE: i64 = FIRST_LINE + OF_EACH_KIND;
pub const BACKING_OFF: i64 = DUE + WAITING;
pub const DUE_SUSPECTS: i64 = BACKING_OFF + OF_EACH_KIND;
pub const SUSPECTS: i64 = DUE_SUSPECTS + WAITING;
pub const RUNNING: i64 = SUSPECTS + OF_EACH_KIND;
pub const EXPIRED: i64 = RUNNING + OF_EACH_KIND;
pub const FAILED: i64 = EXPIRED + OF_EACH_KIND;
pub const CANCELLED: i64 = FAILED + OF_EACH_KIND;
/// The last id of each kind of finished orders. Half of them are completed, the others cancelled or failed.
pub const COMPLETED_LATER: i64 = CANCELLED + FINISHED / 2;
pub const CANCELLED_LATER: i64 = COMPLETED_LATER + FINISHED / 4;
pub const FAILED_LATER: i64 = CANCELLED_LATER + FINISHED / 4;
/// The position up to which every batch has one event. Later batches have many.
pub const LAST_PLACE: i64 = 3 * FINISHED + CANCELLED;

/// A store, and a session that has used it since it was empty.
pub struct Dataset {
    pub setup: Setup,
    pub session: Session,
}

/// The statistics that the planner uses. Only the first variant is accurate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    Fresh,
    /// No statistics, and the session's function plans are from an empty store.
    NeverGathered,
    /// Gathered in an empty store.
    OfAnEmptyTable,
    /// Gathered when all finished orders had this status.
    AllIn(OrderStatus),
    /// Gathered when all of them were blocked.
    AllBlocked,
    /// Gathered when no order was open; the tables of open orders had been large.
    OfEmptiedTables,
}

pub const ALL_STATISTICS: [Statistics; 10] = [
    Statistics::Fresh,
    Statistics::NeverGathered,
    Statistics::OfAnEmptyTable,
    Statistics::AllIn(OrderStatus::Pending),
    Statistics::AllIn(OrderStatus::Processing),
    Statistics::AllIn(OrderStatus::Completed),
    Statistics::AllIn(OrderStatus::Failed),
    Statistics::AllIn(OrderStatus::Cancelled),
    Statistics::AllBlocked,
    Statistics::OfEmptiedTables,
];

/// Orders of both lines (due and not due, suspects and others), running and expired leases, and ended orders. Each order has its
/// events in one batch.
const OTHERS: &str = "
create temporary table others as
select order_id, kind, suspect, now() + due as at,
    :finished + 2 * (:finished / :batch_events) + (order_id - 1) / :batch_events + 1 as batch
from (
    select nextval('orderly.order_ids') as order_id, given.*
    from (values
        ('first line', false, null::interval), ('second line', false, '-1 second'), ('second line', false, '1 hour'),
        ('second line', true, '-1 second'), ('second line', true, '1 hour'), ('lease', false, '1 hour'),
        ('lease', false, '-1 second'), ('failed', false, null), ('cancelled', false, null)) as given (kind, suspect, due),
        generate_series(1, case when kind = 'second line' and due = '1 hour' then :waiting else :of_each_kind end)) as given;
insert into orderly.orders (order_id, status, version, attempts, crashes, fence, node, created_at, accepted_in, changed_at,
    processing_at, finished_at, user_id, total_amount, item_ids)
select order_id, case kind when 'failed' then 3 when 'cancelled' then 4 else 0 end, 1, 0, 0, 0, null, now(), batch, null,
    null, null, :small_user, 100, '1,2'
from others;
update orderly.orders as o set version = 3, attempts = 1, crashes = 2 * suspect::int, fence = 1, node = 7, changed_at = now(),
    processing_at = now(), finished_at = case when o.status > 1 then now() end,
    history = array[row(1, now(), 1, 7, batch, null, null)::orderly.event,
        row(case o.status when 3 then 4 when 4 then 7 else 3 end, now(), 1, 7, batch, 'no', null)::orderly.event]
from others where o.order_id = others.order_id and kind <> 'first line';
insert into orderly.first_line select order_id from others where kind = 'first line';
insert into orderly.second_line select order_id, at, suspect from others where kind = 'second line';
insert into orderly.leases (order_id, fence, node, version, attempt, started_at, started_in, expires_at, outside, handed_out)
select order_id, 2, 7, 4, 2, now(), batch, at, false, false from others where kind = 'lease';
insert into orderly.failed select order_id, :small_user from others where kind = 'failed';
insert into orderly.cancelled select order_id, :small_user from others where kind = 'cancelled';";

/// Finished orders with a key each, and as many rows of long histories whose orders do not exist.
const FINISHED_ORDERS: &str = "
create temporary table finished as
select n, nextval('orderly.order_ids') as order_id,
    case when n <= :finished / 2 then 2 when n <= 3 * :finished / 4 then 4 else 3 end as status, n as accepted_in,
    :finished + (n - 1) / :batch_events + 1 as started_in,
    :finished + :finished / :batch_events + (n - 1) / :batch_events + 1 as ended_in
from generate_series(1, :finished) as n;
insert into orderly.orders (order_id, status, version, attempts, fence, node, created_at, accepted_in, changed_at, processing_at,
    finished_at, started_in, ended_in, user_id, total_amount, item_ids, reference, history)
select order_id, status, 3, 1, 1, 7, now(), accepted_in, now(), now(), now(), case when status <> 4 then started_in end,
    case when status <> 4 then ended_in end, :big_user, 100, '1,2', 'order ' || n,
    case when status = 4 then array[row(1, now(), 1, 7, started_in, null, null)::orderly.event,
        row(7, now(), 1, null, ended_in, null, null)::orderly.event] end
from finished;
insert into orderly.failed select order_id, :big_user from finished where status = 3;
insert into orderly.cancelled select order_id, :big_user from finished where status = 4;
insert into orderly.history select -order_id, 2, array[row(1, now(), 1, 7, 1, null, null)::orderly.event] from finished;
insert into orderly.idempotency_keys (scope, key, fingerprint, order_ids, created_at)
select 'orders', 'key ' || n, '\\x00', array[order_id], now() from finished;
insert into orderly.batches (batch, first_position, kind, at, order_ids)
select accepted_in, n, 0, now(), array[order_id] from finished;
insert into orderly.batches (batch, first_position, kind, at, order_ids, versions, attempts, node)
select started_in, :finished + min(n), 1, now(), array_agg(order_id order by n), array_agg(2), array_agg(1), 7
from finished group by started_in;
insert into orderly.batches (batch, first_position, kind, at, order_ids, versions, attempts, node)
select ended_in, 2 * :finished + min(n), case min(status) when 2 then 2 when 4 then 7 else 4 end, now(),
    array_agg(order_id order by n), array_agg(3), array_agg(1), 7
from finished group by ended_in;
insert into orderly.batches (batch, first_position, kind, at, order_ids)
select batch, 3 * :finished + min(order_id), 0, now(), array_agg(order_id order by order_id) from others group by batch;
select setval('orderly.batch_ids', (select max(batch) from orderly.batches));
update orderly.queue set last_position = 3 * :finished + (select count(*) from others);";

/// Moves the finished orders to the tables of the status that the statistics assume.
fn as_assumed_by(statistics: Statistics) -> &'static str {
    match statistics {
        Statistics::AllIn(OrderStatus::Pending) => {
            "update orderly.orders set status = 0 where user_id = :big_user;
            insert into orderly.first_line select order_id from finished;
            insert into orderly.second_line select order_id, now(), false from finished;"
        }
        Statistics::AllBlocked => {
            "update orderly.orders set status = 0 where user_id = :big_user;
            insert into orderly.blocked select order_id, :big_user, now(), null, false from finished;
            insert into orderly.turns select :big_user, order_id from finished;
            insert into orderly.unseen (user_id) select :big_user from finished;"
        }
        Statistics::AllIn(OrderStatus::Processing) => {
            "update orderly.orders set status = 0 where user_id = :big_user;
            insert into orderly.leases (
                order_id, fence, node, version, attempt, started_at, started_in, expires_at, outside, handed_out)
            select order_id, 1, 7, 2, 1, now(), started_in, now(), false, false from finished;"
        }
        Statistics::AllIn(OrderStatus::Completed) => {
            "update orderly.orders set status = 2 where user_id = :big_user;
            delete from orderly.failed where user_id = :big_user;
            delete from orderly.cancelled where user_id = :big_user;"
        }
        Statistics::AllIn(OrderStatus::Failed) => {
            "update orderly.orders set status = 3 where user_id = :big_user;
            delete from orderly.cancelled where user_id = :big_user;
            insert into orderly.failed select order_id, :big_user from finished on conflict do nothing;"
        }
        Statistics::AllIn(OrderStatus::Cancelled) => {
            "update orderly.orders set status = 4 where user_id = :big_user;
            delete from orderly.failed where user_id = :big_user;
            insert into orderly.cancelled select order_id, :big_user from finished on conflict do nothing;"
        }
        Statistics::Fresh
        | Statistics::NeverGathered
        | Statistics::OfAnEmptyTable
        | Statistics::OfEmptiedTables => "",
    }
}

const BACK_TO_THEIR_STATUS: &str = "
update orderly.orders as o set status = finished.status from finished
where o.order_id = finished.order_id and o.status <> finished.status;
delete from orderly.first_line where order_id in (select order_id from finished);
delete from orderly.second_line where order_id in (select order_id from finished);
delete from orderly.leases where order_id in (select order_id from finished);
truncate orderly.blocked, orderly.turns, orderly.unseen;
delete from orderly.failed where order_id in (select order_id from finished where status <> 3);
delete from orderly.cancelled where order_id in (select order_id from finished where status <> 4);
insert into orderly.failed select order_id, :big_user from finished where status = 3 on conflict do nothing;
insert into orderly.cancelled select order_id, :big_user from finished where status = 4 on conflict do nothing;";

const COUNTED: &str = "
update orderly.counters set
    pending = (select count(*) from orderly.first_line) + (select count(*) from orderly.second_line),
    processing = (select count(*) from orderly.leases),
    completed = (select count(*) from orderly.orders where status = 2),
    failed = (select count(*) from orderly.failed),
    cancelled = (select count(*) from orderly.cancelled)
where slot = 0";

/// Makes the session cache plans of functions in an empty store. It keeps them unless a table is changed, vacuumed or analyzed.
/// Stores nothing.
const USED_WHILE_EMPTY: &str = "
begin;
select from :accept('{}', '{}', '{}', '{}', '{}', null, null, null, null, null, null, null, 1::int2);
select from :accept_keyed('{}', '{}', '{}', '{}', '{}', '{}', null, null, null, null, null, null, null, '{}', '{}', '{}', '{}', 1::int2);
select from :start('{}', '{}', 0, 10, 1000, false, false, '{}', 1, 0);
select from :pick('{}', 10, true, '{}');
select from :claim(places => 10, claiming_node => 10, lease_micros => 1000, takes_suspects => true, is_outside => false,
    is_handed_out => false, wanted => null, known_processor => -1, known_ordering => 0, second_first => 0, above => 0,
    spare => 4, unseen_max => 500, counter_slot => 1, claim_lock => 1, stepped_around => '{}');
select from :see_to_turns(500, true, true, '{}');
select from :settle('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', 1::int2);
select from :view_orders('{}');
rollback;";

/// Tables that grow.
pub const TABLES: [&str; 12] = [
    "orders",
    "history",
    "first_line",
    "second_line",
    "blocked",
    "turns",
    "unseen",
    "leases",
    "failed",
    "cancelled",
    "batches",
    "idempotency_keys",
];

/// Tables that are empty when no order is open.
const EMPTIED: [&str; 6] = [
    "first_line",
    "second_line",
    "blocked",
    "turns",
    "unseen",
    "leases",
];

async fn analyze(setup: &Setup) {
    for table in TABLES {
        let analyze = format!("analyze orderly.{table}");
        setup.admin.batch_execute(&analyze).await.unwrap();
    }
}

/// Numbers the whole feed at once, with statistics from before. Returns the number of pages with dead entries of the numbering that
/// a read may have to skip until they are vacuumed.
///
/// Readers remove dead entries only if no transaction can need them. While a transaction is open anywhere on the server, even in
/// another test's database, the first reader may have to skip all of them.
pub async fn number_late(setup: &Setup) -> u64 {
    let unnumber =
        "update orderly.batches set first_position = null; update orderly.queue set last_position = 0;
        vacuum orderly.batches";
    for statement in unnumber.split(';') {
        setup.admin.batch_execute(statement).await.unwrap();
    }
    analyze(setup).await;
    while setup.store.events_after(None, 1).await.unwrap().unplaced {
        setup.store.history(OrderId(FAILED_LATER), 0).await.unwrap();
    }
    let dead = "select (pg_relation_size('orderly.batches') + pg_relation_size('orderly.batches_unnumbered'))
        / current_setting('block_size')::int8";
    u64::try_from(setup.number(dead).await).unwrap()
}

/// Creates a store with orders of every kind, followed by this many finished ones, so that a statement that reads past orders
/// instead of finding them by index reads many.
pub async fn dataset(statistics: Statistics, finished: i64) -> Option<Dataset> {
    let setup = Setup::new().await?;
    // Sent to be captured. It finds nothing.
    let claim = claim_by(NODE_A, PAGE_ORDERS);
    setup.store.claim(claim).await.unwrap();
    let run = async |statements: &str| {
        let statements = statements
            .replace(":finished", &finished.to_string())
            .replace(":batch_events", &BATCH_EVENTS.to_string())
            .replace(":of_each_kind", &OF_EACH_KIND.to_string())
            .replace(":waiting", &WAITING.to_string())
            .replace(":big_user", &BIG_USER.to_string())
            .replace(":small_user", &SMALL_USER.to_string());
        let run = setup.admin.batch_execute(&statements).await;
        run.unwrap_or_else(|error| panic!("{error:?} in {statements}"));
    };
    for table in TABLES {
        run(&format!(
            "alter table orderly.{table} set (autovacuum_enabled = off)"
        ))
        .await;
    }
    if statistics == Statistics::OfAnEmptyTable {
        analyze(&setup).await;
    }
    // The first temporary table of a session creates a schema, which makes all sessions replan.
    run("create temporary table first ()").await;
    let session = Session::open(&setup.database.url()).await;
    let used = setup.database.named(USED_WHILE_EMPTY).await;
    session.client.batch_execute(&used).await.unwrap();
    run(OTHERS).await;
    run(FINISHED_ORDERS).await;
    let before = as_assumed_by(statistics);
    if !before.is_empty() {
        run(before).await;
        analyze(&setup).await;
        run(BACK_TO_THEIR_STATUS).await;
    }
    run(COUNTED).await;
    // Removes dead entries without gathering statistics.
    if statistics != Statistics::NeverGathered {
        for table in TABLES {
            run(&format!("vacuum (index_cleanup on) orderly.{table}")).await;
        }
    }
    if statistics == Statistics::Fresh {
        analyze(&setup).await;
    }
    if statistics == Statistics::OfEmptiedTables {
        for table in EMPTIED {
            run(&format!(
                "update pg_class set reltuples = 0, relpages = 1000 where oid = 'orderly.{table}'::regclass"
            ))
            .await;
        }
    }
    Some(Dataset { setup, session })
}
