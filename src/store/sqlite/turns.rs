//! Turns (`ORDERLY_ORDERING=user`): of a user's Pending orders, at most one has the turn, and the others are blocked. Every change
//! that may move the turn calls [`pass`] in its transaction.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::group::{Group, Totals, require_changed};
use super::listing::{FAILED_BY_USER, PROCESSING_BY_USER};
use crate::order::{OnFailure, OnHold, OrderId, OrderStatus, Ordering};
use crate::store::RefusedOrder;
use crate::time::Timestamp;

/// Values of `orders.turn` for Pending orders: the order has the turn, it is blocked, or it is set aside.
const ITS_TURN: i64 = 0;
const WAITS: i64 = 1;
pub(super) const SET_ASIDE: i64 = 2;

/// Lists of a user's Pending orders by id: the one with the turn, and the blocked ones.
pub(super) const HAS_TURN_BY_USER: &str =
    "orders indexed by orders_turn where status = 0 and turn is not null and turn = 0";
pub(super) const WAITING_BY_USER: &str =
    "orders indexed by orders_turn where status = 0 and turn is not null and turn = 1";
pub(super) const SET_ASIDE_BY_USER: &str =
    "orders indexed by orders_turn where status = 0 and turn is not null and turn = 2";

/// The turn of a new order; `None` if it may start and users have no turns.
pub(super) fn for_new_order(
    group: &Group<'_>,
    user_id: i64,
    set_aside: bool,
) -> Result<Option<i64>, rusqlite::Error> {
    if set_aside {
        return Ok(Some(SET_ASIDE));
    }
    let Ordering::User { on_failure, on_hold } = group.totals.ordering else {
        return Ok(None);
    };
    let first = first_open(group.connection, user_id, on_failure, on_hold)?;
    Ok(Some(if first.is_some() { WAITS } else { ITS_TURN }))
}

/// The turn of an order that returns to Pending: blocked until [`pass`] gives it the turn; `None` if users have no turns.
pub(super) fn for_returning_order(group: &Group<'_>) -> Option<i64> {
    match group.totals.ordering {
        Ordering::None => None,
        Ordering::User { .. } => Some(WAITS),
    }
}

/// Users with an owed turn that one claim tries again, at most.
const OWED_MAX: usize = 1_000;

/// Gives the turn to the user's first open order, if it is Pending and none of the user's orders is Processing. If the database
/// refuses this change, notes that the turn is owed, so that the change of the order before it still succeeds.
pub(super) fn pass(group: &mut Group<'_>, user_id: i64) -> Result<(), rusqlite::Error> {
    if try_pass(group, user_id)?.is_some() {
        group
            .connection
            .prepare_cached("insert or ignore into turns_owed (user_id) values (?1)")?
            .execute([user_id])?;
        // The next claim tries again.
        group.effects.work = true;
    }
    Ok(())
}

/// Passes owed turns. Returns the orders that the database still refuses to change.
pub(super) fn pass_owed(group: &mut Group<'_>) -> Result<Vec<RefusedOrder>, rusqlite::Error> {
    if group.totals.ordering == Ordering::None {
        return Ok(Vec::new());
    }
    let connection = group.connection;
    let users: Vec<i64> = connection
        .prepare_cached("select user_id from turns_owed order by user_id limit ?1")?
        .query_map([OWED_MAX], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut refused = Vec::new();
    for user_id in users {
        if let Some(order) = try_pass(group, user_id)? {
            refused.push(order);
        } else {
            connection
                .prepare_cached("delete from turns_owed where user_id = ?1")?
                .execute([user_id])?;
        }
    }
    Ok(refused)
}

/// Passes the user's turn. If the database refuses it, changes nothing and returns the refused order.
fn try_pass(group: &mut Group<'_>, user_id: i64) -> Result<Option<RefusedOrder>, rusqlite::Error> {
    let Ordering::User { on_failure, on_hold } = group.totals.ordering else {
        return Ok(None);
    };
    let connection = group.connection;
    let next = match first_open(connection, user_id, on_failure, on_hold)? {
        Some(first) if first.may_start() && in_processing(connection, user_id)?.is_none() => {
            Some(first.order_id)
        }
        _ => None,
    };
    let holder = first_of_user(connection, user_id, HAS_TURN_BY_USER)?;
    if holder == next {
        return Ok(None);
    }
    let mut changing = None;
    let passed = group.in_savepoint(|group| {
        if let Some(holder) = holder {
            changing = Some(holder);
            set_turn(group.connection, holder, WAITS)?;
        }
        if let Some(next) = next {
            changing = Some(next);
            set_turn(group.connection, next, ITS_TURN)?;
            group.effects.work = true;
        }
        Ok(())
    })?;
    let refused = passed.err().zip(changing);
    Ok(refused.map(|(refusal, order_id)| refusal.of_order(order_id)))
}

/// An order that later ones of its user wait for.
#[derive(Clone, Copy)]
pub(super) struct FirstOpen {
    pub order_id: OrderId,
    pub status: OrderStatus,
    pub set_aside: bool,
}

impl FirstOpen {
    fn may_start(self) -> bool {
        self.status == OrderStatus::Pending && !self.set_aside
    }
}

/// The user's first order that later ones wait for: Pending, Processing, or Failed if failures block. Orders that are set aside
/// count if they block.
pub(super) fn first_open(
    connection: &Connection,
    user_id: i64,
    on_failure: OnFailure,
    on_hold: OnHold,
) -> Result<Option<FirstOpen>, rusqlite::Error> {
    const ALWAYS: [(OrderStatus, &str); 3] = [
        (OrderStatus::Pending, HAS_TURN_BY_USER),
        (OrderStatus::Pending, WAITING_BY_USER),
        (OrderStatus::Processing, PROCESSING_BY_USER),
    ];
    let failed = (on_failure == OnFailure::Block).then_some((OrderStatus::Failed, FAILED_BY_USER));
    let set_aside = (on_hold == OnHold::Block).then_some((OrderStatus::Pending, SET_ASIDE_BY_USER));
    let mut first: Option<FirstOpen> = None;
    for (status, list) in ALWAYS.into_iter().chain(failed).chain(set_aside) {
        let Some(order_id) = first_of_user(connection, user_id, list)? else {
            continue;
        };
        if first.is_none_or(|first| order_id < first.order_id) {
            first = Some(FirstOpen {
                order_id,
                status,
                set_aside: list == SET_ASIDE_BY_USER,
            });
        }
    }
    Ok(first)
}

/// The user's running order, which later ones wait for.
pub(super) fn running(connection: &Connection, user_id: i64) -> Result<Option<FirstOpen>, rusqlite::Error> {
    let running = in_processing(connection, user_id)?;
    Ok(running.map(|order_id| FirstOpen {
        order_id,
        status: OrderStatus::Processing,
        set_aside: false,
    }))
}

/// The user's first Processing order. More than one can run if they started before users had turns.
pub(super) fn in_processing(
    connection: &Connection,
    user_id: i64,
) -> Result<Option<OrderId>, rusqlite::Error> {
    first_of_user(connection, user_id, PROCESSING_BY_USER)
}

fn first_of_user(
    connection: &Connection,
    user_id: i64,
    list: &str,
) -> Result<Option<OrderId>, rusqlite::Error> {
    connection
        .prepare_cached(&first_of_user_sql(list))?
        .query_row([user_id], |row| row.get(0))
        .optional()
}

/// The statement that reads the first order of user ?1 in the list.
pub(super) fn first_of_user_sql(list: &str) -> String {
    format!("select order_id from {list} and user_id = ?1 order by order_id limit 1")
}

fn set_turn(connection: &Connection, order_id: OrderId, turn: i64) -> Result<(), rusqlite::Error> {
    let changed = connection
        .prepare_cached("update orders set turn = ?2 where order_id = ?1")?
        .execute((order_id, turn))?;
    require_changed(changed, 1)
}

/// Changes the ordering of a file that no node uses.
pub(super) fn set_ordering(
    connection: &mut Connection,
    ordering: Ordering,
    now: Timestamp,
) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let totals = Totals::read(&transaction)?;
    if totals.ordering == ordering {
        return Ok(());
    }
    let mut group = Group::new(&transaction, now, totals);
    group.totals.ordering = ordering;
    // Processing orders get a turn when they return to Pending.
    transaction.execute(
        "update orders set turn = ?1 where status = 0 and turn is not ?2",
        (for_returning_order(&group), SET_ASIDE),
    )?;
    group.totals.ordering_from = totals.last_order_id;
    pass_to_all(&mut group)?;
    let (totals, _) = group.finish();
    totals.write(&transaction)?;
    transaction.commit()
}

/// Passes the turn of every user with Pending orders.
fn pass_to_all(group: &mut Group<'_>) -> Result<(), rusqlite::Error> {
    let users: Vec<i64> = group
        .connection
        .prepare("select distinct user_id from orders indexed by orders_turn where status = 0 and turn is not null")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    users.into_iter().try_for_each(|user_id| pass(group, user_id))
}
