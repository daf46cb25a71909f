//! One transaction of the writer, and the state that its calls share: the time, the counters, the next order id and event
//! position, and the effects to publish after the commit.

use rusqlite::Connection;

use super::failure::Refusal;
use super::statements::{HotStatement, Statements};
use crate::event::{EventDetail, EventKind};
use crate::lease::NodeId;
use crate::order::{Order, OrderId, OrderStatus, Ordering};
use crate::store::{Counters, StoreError, codes};
use crate::time::Timestamp;

/// The only row of the table `counters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub counters: Counters,
    pub last_order_id: i64,
    pub last_position: i64,
    /// The highest position of a removed event.
    pub complete_after: i64,
    pub paused: bool,
    pub ordering: Ordering,
    /// The highest order id when the ordering was last changed.
    pub ordering_from: i64,
}

pub(super) struct Group<'c> {
    pub connection: &'c Connection,
    /// Read after the transaction began; the same for all its calls.
    pub now: Timestamp,
    pub totals: Totals,
    pub effects: Effects,
    pub statements: Statements<'c>,
    /// New orders whose `accepted` events are not written yet.
    without_event: Option<IdRun>,
}

/// Orders with consecutive ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdRun {
    pub first: OrderId,
    pub last: OrderId,
}

impl IdRun {
    pub fn single(only: OrderId) -> IdRun {
        IdRun::starting_at(only, 1)
    }

    pub fn starting_at(first: OrderId, orders: usize) -> IdRun {
        let after = first.0 + i64::try_from(orders).expect("a run is short");
        IdRun {
            first,
            last: OrderId(after - 1),
        }
    }

    /// Adds the order if its id follows the last one; reports whether it did.
    pub fn try_extend(&mut self, next: OrderId) -> bool {
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

/// Effects to publish once the transaction is committed.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Orders may have become claimable.
    pub work: bool,
    /// Orders were scheduled.
    pub timers: bool,
    pub finals: Vec<OrderId>,
    pub accepted: u64,
    pub overdue: u64,
    pub leases_lost: u64,
    pub stale_results: u64,
}

impl Effects {
    /// Marks the effects so far, for [`Effects::roll_back_to`]. Keeps only the number of the finals.
    fn mark(&self) -> (Effects, usize) {
        let marked = Effects {
            finals: Vec::new(),
            ..*self
        };
        (marked, self.finals.len())
    }

    fn roll_back_to(&mut self, (marked, finals): (Effects, usize)) {
        self.finals.truncate(finals);
        *self = Effects {
            finals: std::mem::take(&mut self.finals),
            ..marked
        };
    }
}

/// The failure of one call within a transaction.
pub(super) enum CallError {
    /// The answer of this call alone. The call must not have written anything.
    Refused(StoreError),
    /// An error that rolls back the whole transaction.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for CallError {
    fn from(error: rusqlite::Error) -> CallError {
        CallError::Sqlite(error)
    }
}

/// A change of one order's status. The transaction supplies the rest of its event.
pub(super) struct StatusChange {
    pub order_id: OrderId,
    /// The order's version after the change.
    pub version: u32,
    pub kind: EventKind,
    /// `None` only for an accepted order.
    pub from: Option<OrderStatus>,
    pub attempt: u32,
    pub node: Option<NodeId>,
    pub error: Option<String>,
    pub detail: EventDetail,
}

impl StatusChange {
    /// The change that led to this state of the order.
    pub fn of_order(kind: EventKind, from: OrderStatus, order: &Order) -> StatusChange {
        StatusChange {
            order_id: order.order_id,
            version: order.version,
            kind,
            from: Some(from),
            attempt: order.attempts,
            node: None,
            error: None,
            detail: EventDetail::default(),
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
            without_event: None,
        }
    }

    /// Carries out part of a call in a savepoint. If the database refuses the part, rolls back to the savepoint and returns the
    /// refusal; the rest of the call continues.
    pub fn in_savepoint<T>(
        &mut self,
        part: impl FnOnce(&mut Group<'c>) -> Result<T, rusqlite::Error>,
    ) -> Result<Result<T, Refusal>, rusqlite::Error> {
        let (totals, effects) = (self.totals, self.effects.mark());
        self.connection.prepare_cached("savepoint part")?.execute([])?;
        let done = match part(self) {
            Ok(done) => Ok(done),
            // A trigger may have rolled back the whole transaction.
            Err(error) if self.connection.is_autocommit() => return Err(error),
            Err(error) => match Refusal::of(&error) {
                Some(refusal) => {
                    self.connection.prepare_cached("rollback to part")?.execute([])?;
                    self.totals = totals;
                    self.effects.roll_back_to(effects);
                    Err(refusal)
                }
                None => return Err(error),
            },
        };
        self.connection.prepare_cached("release part")?.execute([])?;
        Ok(done)
    }

    /// Returns the totals to write before the commit and the effects to publish after it.
    pub fn finish(self) -> (Totals, Effects) {
        assert!(self.without_event.is_none(), "every accepted order has its event");
        (self.totals, self.effects)
    }

    /// Writes the event of a status change and updates the counters. Every status change goes through here or
    /// [`Group::record_run`].
    pub fn record(&mut self, change: StatusChange) -> Result<(), rusqlite::Error> {
        let status = self.count(change.from, change.kind, IdRun::single(change.order_id));
        self.totals.last_position += 1;
        self.statements.get(HotStatement::InsertEvent)?.execute((
            self.totals.last_position,
            change.order_id,
            change.version,
            change.kind,
            status,
            self.now,
            change.attempt,
            change.node,
            change.error,
            change.detail.to_stored(),
        ))?;
        Ok(())
    }

    /// Does what [`Group::record`] does, for all orders of a run that made the same change.
    pub fn record_run(
        &mut self,
        run: IdRun,
        kind: EventKind,
        from: OrderStatus,
        node: NodeId,
    ) -> Result<(), rusqlite::Error> {
        self.count(Some(from), kind, run);
        self.insert_events(run, kind, Some(node))
    }

    /// Records a new order. Its event is written together with those of the orders accepted next.
    pub fn record_accepted(&mut self, order_id: OrderId) {
        self.count(None, EventKind::Accepted, IdRun::single(order_id));
        match &mut self.without_event {
            Some(run) => assert!(run.try_extend(order_id), "order ids are consecutive"),
            none => *none = Some(IdRun::single(order_id)),
        }
    }

    /// Number of new orders whose events are not written yet.
    pub fn unwritten_events(&self) -> usize {
        self.without_event.map_or(0, IdRun::len)
    }

    /// Writes the events of the new orders. Must be called before a call that does not accept orders, and before the commit.
    pub fn write_accepted_events(&mut self) -> Result<(), rusqlite::Error> {
        match self.without_event.take() {
            Some(run) => self.insert_events(run, EventKind::Accepted, None),
            None => Ok(()),
        }
    }

    /// Moves the orders between the counters and notes the effects. Returns the new status of the orders.
    fn count(&mut self, from: Option<OrderStatus>, kind: EventKind, run: IdRun) -> OrderStatus {
        let status = OrderStatus::after(from, kind)
            .expect("the statements change rows only along the table of transitions");
        let orders = run.len() as u64;
        if let Some(from) = from {
            *counter(&mut self.totals.counters, from) -= orders;
        }
        *counter(&mut self.totals.counters, status) += orders;
        if kind.leads_to().is_none() {
            return status;
        }
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
        run: IdRun,
        kind: EventKind,
        node: Option<NodeId>,
    ) -> Result<(), rusqlite::Error> {
        let inserted = self.statements.get(HotStatement::InsertEvents)?.execute((
            self.totals.last_position + 1 - run.first.0,
            kind,
            self.now,
            node,
            run.first,
            run.last,
        ))?;
        assert_eq!(inserted, run.len(), "every order of a run is stored");
        self.totals.last_position += i64::try_from(inserted).expect("a run is short");
        Ok(())
    }

    pub fn next_order_id(&mut self) -> OrderId {
        self.totals.last_order_id += 1;
        OrderId(self.totals.last_order_id)
    }
}

/// Returns an error unless a statement changed as many rows as expected. Nothing else writes during the transaction, so a lower
/// number means that an operator's trigger skipped a row.
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
                        last_order_id, last_position, complete_after, paused, ordering, ordering_from, held, scheduled
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
                        held: row.get(12)?,
                        scheduled: row.get(13)?,
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
            held,
            scheduled,
            processing_micros,
        } = self.counters;
        connection
            .prepare_cached(
                "update counters set pending = ?1, processing = ?2, completed = ?3, failed = ?4, cancelled = ?5,
                        processing_micros = ?6, last_order_id = ?7, last_position = ?8, complete_after = ?9,
                        paused = ?10, ordering = ?11, ordering_from = ?12, held = ?13, scheduled = ?14
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
                held,
                scheduled,
            ))?;
        Ok(())
    }
}
