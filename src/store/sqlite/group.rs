//! One transaction of the writer and what the calls in it share: the time, the counters, the numbers to give out,
//! and what to tell the rest of the process once it is committed.

use rusqlite::Connection;

use super::failure::Refusal;
use super::statements::{Hot, Statements};
use crate::event::EventKind;
use crate::lease::NodeId;
use crate::order::{Order, OrderId, OrderStatus, Ordering};
use crate::store::{Counters, StoreError, codes};
use crate::time::Timestamp;

/// The one row of the table of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub counters: Counters,
    pub last_order_id: i64,
    pub last_position: i64,
    /// The highest position that retention removed.
    pub complete_after: i64,
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
    pub statements: Statements<'c>,
    /// The ids of orders whose events are still to be written.
    accepted: Option<Run>,
}

/// Orders with consecutive ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub first: OrderId,
    pub last: OrderId,
}

impl Run {
    pub fn of(only: OrderId) -> Run {
        Run::of_length(only, 1)
    }

    pub fn of_length(first: OrderId, orders: usize) -> Run {
        let after = first.0 + i64::try_from(orders).expect("a run is short");
        Run {
            first,
            last: OrderId(after - 1),
        }
    }

    /// Whether the order is the next one; then it is in the run.
    pub fn takes(&mut self, next: OrderId) -> bool {
        let follows = next.0 == self.last.0 + 1;
        if follows {
            self.last = next;
        }
        follows
    }

    pub fn len(self) -> usize {
        usize::try_from(self.last.0 - self.first.0 + 1).expect("a run does not end before it begins")
    }
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

impl Effects {
    /// Returns the effects so far. Of the ended orders, only the number is kept.
    fn marked(&self) -> (Effects, usize) {
        let marked = Effects {
            finals: Vec::new(),
            ..*self
        };
        (marked, self.finals.len())
    }

    fn back_to(&mut self, (marked, finals): (Effects, usize)) {
        self.finals.truncate(finals);
        *self = Effects {
            finals: std::mem::take(&mut self.finals),
            ..marked
        };
    }
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

impl Change {
    /// The change that left the order like this.
    pub fn of_order(kind: EventKind, from: OrderStatus, order: &Order) -> Change {
        Change {
            order_id: order.order_id,
            version: order.version,
            kind,
            from: Some(from),
            attempt: order.attempts,
            node: None,
            error: None,
        }
    }
}

impl<'c> Group<'c> {
    pub fn new(connection: &'c Connection, now: Timestamp, totals: Totals) -> Group<'c> {
        Group {
            connection,
            now,
            totals,
            effects: Effects::default(),
            statements: Statements::new(connection),
            accepted: None,
        }
    }

    /// Carries out a part of a call that the database may refuse without the rest of the call; what the part did until then
    /// is taken back, and the refusal is answered.
    pub fn part<T>(
        &mut self,
        part: impl FnOnce(&mut Group<'c>) -> Result<T, rusqlite::Error>,
    ) -> Result<Result<T, Refusal>, rusqlite::Error> {
        let (totals, effects) = (self.totals, self.effects.marked());
        self.connection.prepare_cached("savepoint part")?.execute([])?;
        let done = match part(self) {
            Ok(done) => Ok(done),
            // A rule may have ended the whole transaction.
            Err(error) if self.connection.is_autocommit() => return Err(error),
            Err(error) => match Refusal::of(&error) {
                Some(refusal) => {
                    self.connection.prepare_cached("rollback to part")?.execute([])?;
                    self.totals = totals;
                    self.effects.back_to(effects);
                    Err(refusal)
                }
                None => return Err(error),
            },
        };
        self.connection.prepare_cached("release part")?.execute([])?;
        Ok(done)
    }

    /// Before the commit.
    pub fn end(self) -> (Totals, Effects) {
        assert!(self.accepted.is_none(), "what was accepted has its events");
        (self.totals, self.effects)
    }

    /// Writes the event of a change of an order's row, and counts it. Every status change goes through here.
    pub fn record(&mut self, change: Change) -> Result<(), rusqlite::Error> {
        let status = self.count(change.from, change.kind, Run::of(change.order_id));
        self.totals.last_position += 1;
        self.statements.get(Hot::InsertEvent)?.execute((
            self.totals.last_position,
            change.order_id,
            change.version,
            change.kind,
            status,
            self.now,
            change.attempt,
            change.node,
            change.error,
        ))?;
        Ok(())
    }

    /// The same for all orders of a run, whose rows have changed in the same way.
    pub fn record_run(
        &mut self,
        run: Run,
        kind: EventKind,
        from: OrderStatus,
        node: NodeId,
    ) -> Result<(), rusqlite::Error> {
        self.count(Some(from), kind, run);
        self.insert_events(run, kind, Some(node))
    }

    /// An order that was just stored; its event is written with those of the orders accepted after it.
    pub fn record_accepted(&mut self, order_id: OrderId) {
        self.count(None, EventKind::Accepted, Run::of(order_id));
        match &mut self.accepted {
            Some(run) => assert!(run.takes(order_id), "ids are given out one after another"),
            none => *none = Some(Run::of(order_id)),
        }
    }

    /// Whose events are still to be written.
    pub fn accepted_orders(&self) -> usize {
        self.accepted.map_or(0, Run::len)
    }

    /// To be called when other calls follow than those that accept.
    pub fn write_accepted(&mut self) -> Result<(), rusqlite::Error> {
        match self.accepted.take() {
            Some(run) => self.insert_events(run, EventKind::Accepted, None),
            None => Ok(()),
        }
    }

    /// Answers the status that the orders have now.
    fn count(&mut self, from: Option<OrderStatus>, kind: EventKind, run: Run) -> OrderStatus {
        let status = OrderStatus::after(from, kind)
            .expect("the statements change rows only along the table of transitions");
        let orders = run.len() as u64;
        if let Some(from) = from {
            *counter(&mut self.totals.counters, from) -= orders;
        }
        *counter(&mut self.totals.counters, status) += orders;
        if status.is_final() {
            self.effects
                .finals
                .extend((run.first.0..=run.last.0).map(OrderId));
        }
        if status == OrderStatus::Pending {
            self.effects.work = true;
        }
        status
    }

    fn insert_events(
        &mut self,
        run: Run,
        kind: EventKind,
        node: Option<NodeId>,
    ) -> Result<(), rusqlite::Error> {
        let inserted = self.statements.get(Hot::InsertEvents)?.execute((
            self.totals.last_position + 1 - run.first.0,
            kind,
            self.now,
            node,
            run.first,
            run.last,
        ))?;
        assert_eq!(inserted, run.len(), "every order of a run is there");
        self.totals.last_position += i64::try_from(inserted).expect("a run is short");
        Ok(())
    }

    pub fn next_order_id(&mut self) -> OrderId {
        self.totals.last_order_id += 1;
        OrderId(self.totals.last_order_id)
    }
}

/// Returns an error unless a statement changed what it had to. Nothing else writes between two statements of a transaction: a
/// rule of an operator's left an order as it was.
pub(super) fn require_changed(changed: usize, expected: usize) -> Result<(), rusqlite::Error> {
    if changed == expected {
        Ok(())
    } else {
        Err(rusqlite::Error::StatementChangedRows(changed))
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
                        last_order_id, last_position, complete_after, paused, ordering, ordering_from
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
                    complete_after: row.get(8)?,
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
                        processing_micros = ?6, last_order_id = ?7, last_position = ?8, complete_after = ?9,
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
                self.complete_after,
                self.paused,
                codes::ordering_code(self.ordering),
                self.ordering_from,
            ))?;
        Ok(())
    }
}
