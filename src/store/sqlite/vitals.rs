//! Reads whether orders flow, and what holds them up: few rows each, whatever the number of orders.

use rusqlite::Connection;

use super::group::{CallError, Group, Totals};
use super::{query, turns};
use crate::lease::NodeId;
use crate::order::{OrderId, Ordering};
use crate::store::vitals::{
    ACTIVITY_KEPT, ACTIVITY_WINDOW, Activity, Blocking, FAILURES_LOOKED_AT_MAX, Failed, NAMED_MAX,
    RETRYING_LOOKED_AT_MAX, Retrying, Running, Vitals, group_failures, unanswered,
};
use crate::store::{AHEAD_MAX, BLOCKED_MAX};
use crate::time::Timestamp;

/// Stores a row of the node, replacing an earlier version of it, and removes old ones.
pub(super) fn record_activity(
    group: &mut Group<'_>,
    node: NodeId,
    number: u64,
    activity: Activity,
) -> Result<(), CallError> {
    let connection = group.connection;
    connection
        .prepare_cached("delete from activity where recorded_at < ?1")?
        .execute([group.now.minus(ACTIVITY_KEPT)])?;
    connection
        .prepare_cached(
            "insert or replace into activity (
                 node, number, recorded_at, accepted, started, completed, retried, failed, leases_lost, leases_refused)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute((
            node,
            number,
            group.now,
            activity.accepted,
            activity.started,
            activity.completed,
            activity.retried,
            activity.failed,
            activity.leases_lost,
            activity.leases_refused,
        ))?;
    Ok(())
}

pub(super) fn vitals(connection: &Connection, now: Timestamp) -> Result<Vitals, rusqlite::Error> {
    let queue = query::queue(connection, now)?;
    let running_outside = connection
        .prepare_cached(
            "select count(*) from (
                 select outside from orders indexed by orders_processing where status = 1 limit ?1)
             where outside = 1",
        )?
        .query_row([AHEAD_MAX], |row| row.get(0))?;
    Ok(Vitals {
        read_at: now,
        activity: recent(connection, now)?,
        oldest_running: oldest_running(connection, now)?,
        running_outside,
        failures: group_failures(latest_failures(connection)?, now),
        blocking: if queue.blocked.orders > 0 {
            blocking(connection, now)?
        } else {
            Vec::new()
        },
        suspects: suspects(connection)?,
        unanswered: unanswered(retrying(connection)?),
        transactions: Vec::new(),
        locked_orders: Vec::new(),
        full_slots: Vec::new(),
        queue,
    })
}

fn recent(connection: &Connection, now: Timestamp) -> Result<Activity, rusqlite::Error> {
    connection
        .prepare_cached(
            "select coalesce(sum(accepted), 0), coalesce(sum(started), 0), coalesce(sum(completed), 0),
                 coalesce(sum(retried), 0), coalesce(sum(failed), 0), coalesce(sum(leases_lost), 0),
                 coalesce(sum(leases_refused), 0)
             from activity where recorded_at > ?1",
        )?
        .query_row([now.minus(ACTIVITY_WINDOW)], |row| {
            Ok(Activity {
                accepted: row.get(0)?,
                started: row.get(1)?,
                completed: row.get(2)?,
                retried: row.get(3)?,
                failed: row.get(4)?,
                leases_lost: row.get(5)?,
                leases_refused: row.get(6)?,
            })
        })
}

fn oldest_running(connection: &Connection, now: Timestamp) -> Result<Option<Running>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "select order_id, node, processing_at, outside from (
             select order_id, node, processing_at, outside from orders indexed by orders_processing
             where status = 1 limit ?1)
         where processing_at is not null and node is not null order by processing_at, order_id limit 1",
    )?;
    let mut found = statement.query_map([AHEAD_MAX], |row| {
        Ok(Running {
            order_id: row.get(0)?,
            node: row.get(1)?,
            age: now.since(row.get(2)?),
            outside: row.get(3)?,
        })
    })?;
    found.next().transpose()
}

fn latest_failures(connection: &Connection) -> Result<Vec<Failed>, rusqlite::Error> {
    connection
        .prepare_cached(
            "select order_id, coalesce(last_error, ''), finished_at from orders indexed by orders_unsuccessful
             where status = 3 and status > 2 order by order_id desc limit ?1",
        )?
        .query_map([FAILURES_LOOKED_AT_MAX], |row| {
            Ok(Failed {
                order_id: row.get(0)?,
                error: row.get(1)?,
                at: row.get(2)?,
            })
        })?
        .collect()
}

fn blocking(connection: &Connection, now: Timestamp) -> Result<Vec<Blocking>, rusqlite::Error> {
    let Ordering::User { on_failure, on_hold } = Totals::read(connection)?.ordering else {
        return Ok(Vec::new());
    };
    let users: Vec<(i64, u64)> = connection
        .prepare_cached(
            "select user_id, count(*) from (
                 select user_id from orders indexed by orders_blocked
                 where status = 0 and turn = 1 order by coalesce(due_at, created_at) limit ?1)
             group by user_id order by count(*) desc, user_id limit ?2",
        )?
        .query_map((BLOCKED_MAX, NAMED_MAX), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut blocking = Vec::new();
    for (user_id, orders) in users {
        let first = match turns::running(connection, user_id)? {
            None => turns::first_open(connection, user_id, on_failure, on_hold)?,
            running => running,
        };
        let Some(turns::FirstOpen {
            order_id,
            status,
            set_aside,
        }) = first
        else {
            continue;
        };
        let backing_off = connection
            .prepare_cached("select status = 0 and coalesce(due_at, 0) > ?2 from orders where order_id = ?1")?
            .query_row((order_id, now), |row| row.get(0))?;
        blocking.push(Blocking {
            order_id,
            status,
            backing_off,
            set_aside,
            orders,
        });
    }
    Ok(blocking)
}

fn retrying(connection: &Connection) -> Result<Vec<Retrying>, rusqlite::Error> {
    connection
        .prepare_cached(
            "select order_id, attempts, last_error from (
                 select order_id, attempts, last_error from orders indexed by orders_due
                 where status = 0 and due_at is not null and coalesce(turn, 0) = 0 and crashes < 2
                 order by due_at, order_id limit ?1)
             where last_error is not null",
        )?
        .query_map([RETRYING_LOOKED_AT_MAX], |row| {
            Ok(Retrying {
                order_id: row.get(0)?,
                attempts: row.get(1)?,
                error: row.get(2)?,
            })
        })?
        .collect()
}

fn suspects(connection: &Connection) -> Result<Vec<OrderId>, rusqlite::Error> {
    connection
        .prepare_cached(
            "select order_id from orders indexed by orders_suspect
             where status = 0 and due_at is not null and coalesce(turn, 0) = 0 and crashes >= 2
             order by due_at, order_id limit ?1",
        )?
        .query_map([NAMED_MAX], |row| row.get(0))?
        .collect()
}
