//! What people do to orders and to the queue: cancel, redrive, pause; and what is taken back from nodes that are gone.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::types::{ToSql, Type};

use super::created::{self, Created};
use super::failure::Failure;
use super::functions::named;
use super::halves::Halves;
use super::link::Link;
use super::links::Links;
use super::listing;
use super::locked::Patience;
use super::locks::CLAIM_LOCK;
use super::probe;
use super::query;
use super::rows;
use super::shared::Shared;
use crate::order::{OrderId, OrderStatus};
use crate::store::columns::order_columns;
use crate::store::{
    Acted, GiveBack, GivenBack, RedriveQuery, Redriven, RefusedChange, SWEEP_ORDERS_MAX, tell_refused,
};

/// Tells whether there are more than one call takes.
const ONE_MORE: usize = SWEEP_ORDERS_MAX + 1;
/// Forgotten with every sweep, so that what a node that is gone stored goes as well.
const KEYS_FORGOTTEN_MIN: usize = 100;
/// The longest wait for the queue's row while holding the claims' lock: all claims wait meanwhile.
const QUEUE_LOCK_MS: u32 = 1_000;
/// Stored ones that one sweep makes up for: what failed for a while does not become too much for one statement.
const KEYS_MATCHED_MAX: usize = 20_000;

pub(super) async fn cancel(links: &Links, shared: &Shared, id: OrderId) -> Result<Acted, Failure> {
    let statement = concat!(
        include_str!("cancel.sql"),
        "select ",
        order_columns!(),
        " from changed"
    );
    let mut patience = Patience::new();
    loop {
        let slot = Shared::any_slot();
        let changed = links
            .once(statement, &[(&id.0, Type::INT8), (&slot, Type::INT2)])
            .await;
        let changed = judged(links, shared, changed).await?;
        if let Some(row) = changed.first() {
            shared.changed();
            shared.ended([id]);
            return Ok(Acted::Done(rows::order(row)?));
        }
        match query::order(links, id).await? {
            None => return Ok(Acted::Unknown),
            Some(order) => match order.status {
                OrderStatus::Cancelled => return Ok(Acted::Done(order)),
                OrderStatus::Completed => return Ok(Acted::Refused(order)),
                OrderStatus::Pending | OrderStatus::Processing | OrderStatus::Failed => {
                    patience.wait(id, &shared.locked).await?;
                }
            },
        }
    }
}

pub(super) async fn redrive(links: &Links, shared: &Shared, id: OrderId) -> Result<Acted, Failure> {
    let statement = concat!(
        include_str!("redrive.sql"),
        "select ",
        order_columns!(),
        " from changed"
    );
    let mut patience = Patience::new();
    loop {
        let slot = Shared::any_slot();
        let changed = links
            .once(
                statement,
                &[
                    (&vec![id.0], Type::INT8_ARRAY),
                    (&slot, Type::INT2),
                    (&true, Type::BOOL),
                ],
            )
            .await;
        let changed = judged(links, shared, changed).await?;
        if let Some(row) = changed.first() {
            shared.changed_with_work();
            return Ok(Acted::Done(rows::order(row)?));
        }
        match query::order(links, id).await? {
            None => return Ok(Acted::Unknown),
            Some(order) => match order.status {
                OrderStatus::Processing | OrderStatus::Completed => return Ok(Acted::Refused(order)),
                OrderStatus::Pending if !backs_off(links, id).await? => return Ok(Acted::Done(order)),
                OrderStatus::Pending | OrderStatus::Failed | OrderStatus::Cancelled => {
                    patience.wait(id, &shared.locked).await?;
                }
            },
        }
    }
}

/// The answer of a statement about one order alone.
async fn judged<T>(links: &Links, shared: &Shared, answer: Result<T, Failure>) -> Result<T, Failure> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(failure) => {
            shared.unsure(&failure);
            Err(probe::judged(failure, &mut links.link()).await)
        }
    }
}

/// Reports whether an order waits for a time to come, by the database's clock.
async fn backs_off(links: &Links, id: OrderId) -> Result<bool, Failure> {
    let statement =
        "select from orderly.order_state where order_id = $1 and status = 0 and due_at > clock_timestamp()";
    let found = links.read(statement, &[(&id.0, Type::INT8)]).await?;
    Ok(!found.is_empty())
}

/// Looks at orders that a redrive of many found locked: a claim of a node holds them for a moment only.
const REDRIVE_LOOKS: usize = 3;
const REDRIVE_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn redrive_matching(
    links: &Links,
    shared: &Shared,
    query: &RedriveQuery,
) -> Result<Redriven, Failure> {
    let mut matching = one_more_than_matching(links, query).await?;
    let more = matching.len() > SWEEP_ORDERS_MAX;
    matching.truncate(SWEEP_ORDERS_MAX);
    let mut left = if query.dry_run {
        Vec::new()
    } else {
        matching.clone()
    };
    let mut redriven = Redriven {
        matched: matching.len(),
        retried: 0,
        more,
    };
    let mut refused = Vec::new();
    for look in 0..REDRIVE_LOOKS {
        if left.is_empty() {
            break;
        }
        if look > 0 {
            sleep(REDRIVE_PAUSE).await;
        }
        let mut halves = Halves::of(std::mem::take(&mut left));
        while let Some(some) = halves.next() {
            let failed = match redrive_some(links, shared, &some).await {
                Ok(changed) => {
                    redriven.retried += changed.len();
                    left.extend(some.into_iter().filter(|id| !changed.contains(id)));
                    continue;
                }
                Err(failure) => failed_at(links, shared, &mut halves, some, failure).await,
            };
            match failed {
                Ok(()) => {}
                Err(failure) if redriven.retried == 0 => return Err(failure),
                // The parts before are stored, and are the answer.
                Err(_) => return Ok(redriven),
            }
        }
        refused.extend(halves.refused("redrive an order"));
    }
    tell_refused(RefusedChange::Redrive, &refused);
    Ok(redriven)
}

/// Keeps a part of a redrive at which the database failed for what may be one order's fault. It is the store's where a redrive
/// of no order fails too.
async fn failed_at(
    links: &Links,
    shared: &Shared,
    halves: &mut Halves<i64>,
    some: Vec<i64>,
    failure: Failure,
) -> Result<(), Failure> {
    if failure.may_be_of_one() && halves.is_whole() {
        redrive_some(links, shared, &[]).await?;
    }
    halves.failed(some, failure)
}

/// Answers those that were redriven.
async fn redrive_some(links: &Links, shared: &Shared, ids: &[i64]) -> Result<HashSet<i64>, Failure> {
    let slot = Shared::any_slot();
    let statement = concat!(include_str!("redrive.sql"), "select order_id from changed");
    let found = links
        .once(
            statement,
            &[
                (&ids, Type::INT8_ARRAY),
                (&slot, Type::INT2),
                (&false, Type::BOOL),
            ],
        )
        .await
        .inspect_err(|failure| shared.unsure(failure))?;
    let changed = found.iter().map(|row| rows::column(row, 0));
    let changed = changed.collect::<Result<HashSet<i64>, _>>()?;
    if !changed.is_empty() {
        shared.changed_with_work();
    }
    Ok(changed)
}

/// The oldest matching orders.
async fn one_more_than_matching(links: &Links, query: &RedriveQuery) -> Result<Vec<i64>, Failure> {
    let below = match query.created_before {
        Some(time) => created::first_created(links, Created::NotBefore(time)).await?,
        None => None,
    };
    let below = below.unwrap_or(i64::MAX);
    let table = listing::table_of(query.status);
    let limit = rows::limit(ONE_MORE);
    let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&below, Type::INT8),
        (&query.created_before, Type::TIMESTAMPTZ),
        (&limit, Type::INT8),
    ];
    // Compared as rows, so that no other index gives the order.
    let (range, oldest_first) = match &query.user_id {
        None => ("order_id < $1", "order_id"),
        Some(user_id) => {
            parameters.push((user_id, Type::INT8));
            (
                "(user_id, order_id) >= ($4, 0) and (user_id, order_id) < ($4, $1)",
                "user_id, order_id",
            )
        }
    };
    let statement = format!(
        "select order_id from {table} as ended
         where {range} and ($2::timestamptz is null or (
             select created_at from orderly.orders where orders.order_id = ended.order_id) < $2)
         order by {oldest_first} limit $3"
    );
    let found = links.read(&statement, &parameters).await?;
    found.iter().map(|row| rows::column(row, 0)).collect()
}

/// Waits for the claim that is under way, if one is: no order starts after this is committed.
pub(super) async fn set_paused(links: &Links, shared: &Shared, paused: bool) -> Result<(), Failure> {
    let message = format!(
        "begin isolation level read committed; set local statement_timeout = 5000; set local lock_timeout = 5000; \
         select pg_advisory_xact_lock({CLAIM_LOCK}); set local lock_timeout = {QUEUE_LOCK_MS}; \
         update orderly.queue set paused = {paused}; commit"
    );
    links.flight(&message).await?;
    if !paused {
        shared.work_came();
        shared.wakeups.notify_resumed();
    }
    Ok(())
}

/// Gives back expired orders. When the database refuses them all for what may be one order's fault, halving finds it.
pub(super) async fn give_back_expired(
    link: &mut Link,
    shared: &Shared,
    request: &GiveBack,
) -> Result<GivenBack, Failure> {
    let given_back = match give_back(link, shared, request, None).await {
        Err(failure) if failure.may_be_of_one() => give_back_by_halves(link, shared, request).await?,
        given_back => given_back?,
    };
    forget_keys(link, shared).await;
    Ok(given_back)
}

async fn give_back_by_halves(
    link: &mut Link,
    shared: &Shared,
    request: &GiveBack,
) -> Result<GivenBack, Failure> {
    // Where the database refuses to take back no order, none of them is to blame.
    give_back(link, shared, request, Some(&Vec::new())).await?;
    let orders_max = rows::limit(SWEEP_ORDERS_MAX);
    let after = request.after.map_or(0, |after| after.0);
    let found = link
        .read(
            include_str!("expired.sql"),
            &[(&orders_max, Type::INT8), (&after, Type::INT8)],
        )
        .await?;
    let order_ids = found.iter().map(|row| rows::column(row, 0));
    let order_ids = order_ids.collect::<Result<Vec<i64>, Failure>>()?;
    let mut given_back = GivenBack {
        next: order_ids.get(SWEEP_ORDERS_MAX - 1).map(|last| OrderId(*last)),
        ..GivenBack::default()
    };
    let mut halves = Halves::of(order_ids);
    while let Some(some) = halves.next() {
        match give_back(link, shared, request, Some(&some)).await {
            Ok(given) => {
                given_back.pending += given.pending;
                given_back.poisoned += given.poisoned;
            }
            Err(failure) => halves.failed(some, failure)?,
        }
    }
    given_back.refused = halves.refused("give back an expired lease");
    shared.refusals.not_taken_back(&given_back.refused);
    Ok(given_back)
}

static GIVE_BACK: LazyLock<String> = LazyLock::new(|| named(include_str!("give_back.sql")));

/// Gives back orders; only those in `only`, where it is given.
async fn give_back(
    link: &mut Link,
    shared: &Shared,
    request: &GiveBack,
    only: Option<&Vec<i64>>,
) -> Result<GivenBack, Failure> {
    let slot = Shared::any_slot();
    let node = rows::node_code(request.node);
    let crashes_max = i32::try_from(request.crashes_max).unwrap_or(i32::MAX);
    let orders_max = rows::limit(SWEEP_ORDERS_MAX);
    let after = request.after.map_or(0, |after| after.0);
    let ended = link
        .repeatable(
            &GIVE_BACK,
            &[
                (&node, Type::INT8),
                (&crashes_max, Type::INT4),
                (&orders_max, Type::INT8),
                (&slot, Type::INT2),
                (&only, Type::INT8_ARRAY),
                (&after, Type::INT8),
            ],
        )
        .await;
    if link.was_repeated() {
        shared.changed_with_work();
    }
    let ended = ended.inspect_err(|failure| shared.unsure(failure))?;
    let mut given_back = GivenBack::default();
    let mut poisoned = Vec::new();
    let mut order_ids = Vec::new();
    for row in &ended {
        let Some(order_id) = rows::column::<Option<i64>>(row, 0)?.map(OrderId) else {
            given_back.next = rows::column::<Option<i64>>(row, 2)?.map(OrderId);
            continue;
        };
        order_ids.push(order_id);
        if rows::status(row, 1)?.is_final() {
            poisoned.push(order_id);
        } else {
            given_back.pending += 1;
        }
    }
    given_back.poisoned = poisoned.len();
    shared.metrics.leases_lost.inc_by(order_ids.len() as u64);
    shared.refusals.ended(order_ids);
    if given_back.pending > 0 {
        shared.changed_with_work();
    } else if !poisoned.is_empty() {
        shared.changed();
    }
    shared.ended(poisoned);
    Ok(given_back)
}

/// Idempotency keys past their retention: more than were stored since the last time, so that their number falls. What
/// fails here is done the next time.
async fn forget_keys(link: &mut Link, shared: &Shared) {
    let stored = shared.keys_stored.swap(0, Ordering::Relaxed);
    let matched = stored.min(KEYS_MATCHED_MAX);
    let limit = rows::limit(2 * matched + KEYS_FORGOTTEN_MIN);
    let forgotten = link
        .repeatable(include_str!("forget_keys.sql"), &[(&limit, Type::INT8)])
        .await;
    let left = match forgotten {
        Ok(_) => stored - matched,
        Err(failure) => {
            tracing::debug!(?failure, "old idempotency keys could not be forgotten");
            stored
        }
    };
    shared.keys_stored.fetch_add(left, Ordering::Relaxed);
}
