//! One transaction of the writer and what the calls in it share: the time, the counters, the numbers to give out,
//! and what to tell the rest of the process once it is committed.

use rusqlite::Connection;

use super::rows;
use crate::event::{Event, EventKind};
use crate::lease::NodeId;
use crate::order::{OrderId, OrderStatus, Ordering};
use crate::store::{Counters, StoreError, codes};
use crate::time::Timestamp;

/// The one row of the table of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub counters: Counters,
    pub last_order_id: i64,
    pub last_position: i64,
    /// The highest position that was taken out.
    pub oldest_position: i64,
    pub paused: bool,
    pub ordering: Ordering,
    /// The highest order id when the ordering was last changed.
    pub ordering_from: i64,
}

pub(super) struct Group<'c> {
    pub connection: &'c Connection,
    /// Taken once the transaction has begun; the same for all its calls.
    pub now: Timestamp,
    pub totals: Totals,
    pub effects: Effects,
}

/// What follows from a commit.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Orders may have become claimable.
    pub work: bool,
    pub finals: Vec<OrderId>,
    pub accepted: u64,
    pub leases_lost: u64,
    pub stale_results: u64,
}

/// Why a call did not succeed.
pub(super) enum CallError {
    /// The call alone is answered so; it must not have written anything.
    Refused(StoreError),
    /// The whole transaction is rolled back.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for CallError {
    fn from(error: rusqlite::Error) -> CallError {
        CallError::Sqlite(error)
    }
}

/// What an event needs to be told; the rest follows from the transaction.
pub(super) struct Change {
    pub order_id: OrderId,
    /// The order's version after the change.
    pub version: u32,
    pub kind: EventKind,
    /// `None` only for an accepted order.
    pub from: Option<OrderStatus>,
    pub attempt: u32,
    pub node: Option<NodeId>,
    pub error: Option<String>,
}

impl<'c> Group<'c> {
    pub fn new(connection: &'c Connection, now: Timestamp, totals: Totals) -> Group<'c> {
        Group {
            connection,
            now,
            totals,
            effects: Effects::default(),
        }
    }

    /// Writes the event of a change of an order's row, and counts it. Every status change goes through here.
    pub fn record(&mut self, change: Change) -> Result<(), rusqlite::Error> {
        let status = OrderStatus::after(change.from, change.kind)
            .expect("the statements change rows only along the table of transitions");
        self.totals.last_position += 1;
        if let Some(from) = change.from {
            *counter(&mut self.totals.counters, from) -= 1;
        }
        *counter(&mut self.totals.counters, status) += 1;
        if status.is_final() {
            self.effects.finals.push(change.order_id);
        }
        if status == OrderStatus::Pending {
            self.effects.work = true;
        }
        rows::insert_event(
            self.connection,
            self.totals.last_position,
            &Event {
                order_id: change.order_id,
                version: change.version,
                kind: change.kind,
                status,
                at: self.now,
                attempt: change.attempt,
                node: change.node,
                error: change.error,
            },
        )
    }

    pub fn next_order_id(&mut self) -> OrderId {
        self.totals.last_order_id += 1;
        OrderId(self.totals.last_order_id)
    }
}

pub(super) fn counter(counters: &mut Counters, status: OrderStatus) -> &mut u64 {
    match status {
        OrderStatus::Pending => &mut counters.pending,
        OrderStatus::Processing => &mut counters.processing,
        OrderStatus::Completed => &mut counters.completed,
        OrderStatus::Failed => &mut counters.failed,
        OrderStatus::Cancelled => &mut counters.cancelled,
    }
}

impl Totals {
    pub fn read(connection: &Connection) -> Result<Totals, rusqlite::Error> {
        connection
            .prepare_cached(
                "select pending, processing, completed, failed, cancelled, processing_micros,
                        last_order_id, last_position, oldest_position, paused, ordering, ordering_from
                 from counters where id = 1",
            )?
            .query_row([], |row| {
                Ok(Totals {
                    counters: Counters {
                        pending: row.get(0)?,
                        processing: row.get(1)?,
                        completed: row.get(2)?,
                        failed: row.get(3)?,
                        cancelled: row.get(4)?,
                        processing_micros: row.get(5)?,
                    },
                    last_order_id: row.get(6)?,
                    last_position: row.get(7)?,
                    oldest_position: row.get(8)?,
                    paused: row.get(9)?,
                    ordering: row.get(10)?,
                    ordering_from: row.get(11)?,
                })
            })
    }

    pub fn write(&self, connection: &Connection) -> Result<(), rusqlite::Error> {
        let Counters {
            pending,
            processing,
            completed,
            failed,
            cancelled,
            processing_micros,
        } = self.counters;
        connection
            .prepare_cached(
                "update counters set pending = ?1, processing = ?2, completed = ?3, failed = ?4, cancelled = ?5,
                        processing_micros = ?6, last_order_id = ?7, last_position = ?8, oldest_position = ?9,
                        paused = ?10, ordering = ?11, ordering_from = ?12
                 where id = 1",
            )?
            .execute((
                pending,
                processing,
                completed,
                failed,
                cancelled,
                processing_micros,
                self.last_order_id,
                self.last_position,
                self.oldest_position,
                self.paused,
                codes::ordering_code(self.ordering),
                self.ordering_from,
            ))?;
        Ok(())
    }
}
