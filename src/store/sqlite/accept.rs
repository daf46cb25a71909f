//! Stores new orders, and answers a repeated request by its idempotency key.

use rusqlite::OptionalExtension;

use super::group::{CallError, Group};
use super::rows::OrderCount;
use super::statements::HotStatement;
use super::{hold, turns};
use crate::money::{Currency, DECIMALS, Money};
use crate::order::{Items, NewOrder, OrderId, Reference, UserId};
use crate::store::accept::{has_room, late, waiting_from};
use crate::store::{Accepted, IDEMPOTENCY_RETENTION, IdempotencyKey, StoreError};
use crate::time::Timestamp;

/// Expired keys deleted with every key stored. More than one, so that a backlog of expired keys shrinks.
const EXPIRED_KEYS_DELETED_PER_KEY: usize = 2;

pub(super) fn accept(
    group: &mut Group<'_>,
    orders: &[NewOrder],
    key: Option<&IdempotencyKey>,
    pending_max: Option<u64>,
) -> Result<Accepted, CallError> {
    if let Some(key) = key
        && let Some(first_answer) = stored_answer(group, key)?
    {
        return Ok(first_answer);
    }
    if let Some(late) = late(orders, group.now) {
        return Err(CallError::Refused(late));
    }
    if !has_room(
        group.totals.counters.waiting(),
        waiting_from(orders, group.now),
        pending_max,
    ) {
        return Err(CallError::Refused(StoreError::QueueFull));
    }
    let order_ids = orders
        .iter()
        .map(|order| insert(group, order))
        .collect::<Result<Vec<_>, _>>()?;
    if let (Some(key), Some(first)) = (key, order_ids.first()) {
        store_key(group, key, *first, order_ids.len())?;
    }
    group.effects.accepted += order_ids.len() as u64;
    Ok(Accepted {
        order_ids,
        created_at: group.now,
        replayed: false,
    })
}

/// Stores one order with a key, in a transaction that the caller rolls back.
pub(super) fn probe(group: &mut Group<'_>) -> Result<(), rusqlite::Error> {
    let order = NewOrder {
        user_id: UserId::Number(1),
        items: Items::of_ids(&[1]).expect("one id in range"),
        total_amount: Money::from_minor_units(0, DECIMALS).expect("nothing is an amount"),
        currency: None,
        reference: None,
        metadata: None,
        start_after: None,
        deadline: None,
        hold: None,
    };
    let key = IdempotencyKey {
        scope: "orderly probe".to_owned(),
        key: "probe".to_owned(),
        fingerprint: [0; 32],
    };
    let order_id = insert(group, &order)?;
    store_key(group, &key, order_id, 1)
}

fn insert(group: &mut Group<'_>, order: &NewOrder) -> Result<OrderId, rusqlite::Error> {
    let order_id = group.next_order_id();
    let user = order.user_id.key();
    let turn = turns::for_new_order(group, user, order.is_set_aside(group.now))?;
    group.statements.get(HotStatement::InsertOrder)?.execute((
        order_id,
        group.now,
        user,
        order.total_amount.minor_units(),
        order.items.codes(),
        order.reference.as_ref().map(Reference::as_str),
        order.metadata.as_deref(),
        turn,
        order.user_id.name(),
        order.currency.map(Currency::code),
        order.items.lines(),
        order.start_after,
        order.hold.as_ref().map(|_| group.now),
        order
            .hold
            .as_ref()
            .and_then(|hold| Some(hold.reason.as_ref()?.as_str())),
        order.deadline,
    ))?;
    group.effects.timers |= order.deadline.is_some();
    hold::count_accepted(group, order);
    group.record_accepted(order_id);
    Ok(order_id)
}

fn stored_answer(group: &Group<'_>, key: &IdempotencyKey) -> Result<Option<Accepted>, CallError> {
    let stored = group
        .connection
        .prepare_cached(
            "select fingerprint, first_order_id, order_count, created_at from idempotency_keys
             where scope = ?1 and key = ?2 and created_at > ?3",
        )?
        .query_row((&key.scope, &key.key, oldest_kept(group)), |row| {
            Ok((
                row.get::<_, [u8; 32]>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, OrderCount>(2)?,
                row.get::<_, Timestamp>(3)?,
            ))
        })
        .optional()?;
    match stored {
        None => Ok(None),
        Some((fingerprint, first, OrderCount(count), created_at)) => {
            let order_ids = (first..first.saturating_add(count)).map(OrderId).collect();
            let answer = key.answer(&fingerprint, order_ids, created_at);
            answer.map(Some).map_err(CallError::Refused)
        }
    }
}

fn store_key(
    group: &Group<'_>,
    key: &IdempotencyKey,
    first: OrderId,
    count: usize,
) -> Result<(), rusqlite::Error> {
    group
        .connection
        .prepare_cached(
            "delete from idempotency_keys where (scope, key) in (
                 select scope, key from idempotency_keys indexed by idempotency_keys_age
                 where created_at <= ?1 order by created_at limit ?2)",
        )?
        .execute((oldest_kept(group), EXPIRED_KEYS_DELETED_PER_KEY))?;
    // Replaces an expired key of the same name that is not deleted yet.
    group
        .connection
        .prepare_cached(
            "insert or replace into idempotency_keys
                 (scope, key, fingerprint, first_order_id, order_count, created_at)
             values (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute((&key.scope, &key.key, key.fingerprint, first, count, group.now))?;
    Ok(())
}

fn oldest_kept(group: &Group<'_>) -> Timestamp {
    group.now.minus(IDEMPOTENCY_RETENTION)
}
