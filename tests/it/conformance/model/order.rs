//! An order of the model and its simple changes.

use orderly::lease::NodeId;
use orderly::order::{Order, OrderStatus};
use orderly::time::Timestamp;

use super::machine::SUSPECT_CRASHES;

#[derive(Clone, Debug, PartialEq)]
pub struct ModelOrder {
    pub status: OrderStatus,
    pub version: u32,
    pub attempts: u32,
    pub generation: u32,
    pub crashes: u32,
    pub processing_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Set while the order is in the second line.
    pub due: Option<Timestamp>,
    pub created: Timestamp,
    pub hold: bool,
    /// The time for which the order is scheduled, also while it is held.
    pub scheduled: Option<Timestamp>,
    pub start_after: Option<Timestamp>,
    pub deadline: Option<Timestamp>,
    pub overdue: bool,
    pub lease: Option<Granted>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Granted {
    pub node: NodeId,
    pub fence: u64,
    pub expires_at: Timestamp,
}

impl ModelOrder {
    pub fn of(order: &Order, crashes: u32) -> ModelOrder {
        ModelOrder {
            status: order.status,
            version: order.version,
            attempts: order.attempts,
            generation: order.generation,
            crashes,
            processing_at: order.processing_at,
            finished_at: order.finished_at,
            due: order.next_attempt_at,
            created: order.created_at,
            hold: order.held_at.is_some(),
            scheduled: None,
            start_after: order.request.start_after,
            deadline: order.request.deadline,
            overdue: order.overdue,
            lease: None,
        }
    }

    pub fn visible(&self) -> ModelOrder {
        ModelOrder {
            lease: None,
            scheduled: None,
            // While it is set aside, an order shows only the end of a backoff.
            due: self
                .due
                .filter(|due| !self.hold && (self.scheduled.is_none() || *due != self.created)),
            ..self.clone()
        }
    }

    /// A redrive makes the order due now, so a later time of its request is gone.
    pub fn forget_start(&mut self, now: Timestamp) {
        self.start_after = self.start_after.filter(|time| *time <= now);
    }

    pub fn is_set_aside(&self) -> bool {
        self.hold || self.scheduled.is_some()
    }

    pub fn is_in_line(&self) -> bool {
        self.status == OrderStatus::Pending && !self.is_set_aside()
    }

    pub fn enter_line(&mut self) {
        self.scheduled = None;
        self.due = self.due.or(Some(self.created));
    }

    /// Changes the times of the request. An order in a line leaves it for a time that has not come, and comes back without one.
    pub fn amend(&mut self, start_after: Option<Timestamp>, deadline: Option<Timestamp>, now: Timestamp) {
        if (start_after, deadline) == (self.start_after, self.deadline) {
            return;
        }
        self.version += 1;
        self.deadline = deadline;
        self.start_after = start_after;
        let waits = start_after.filter(|time| *time > now);
        if self.status != OrderStatus::Pending {
        } else if self.hold {
            self.scheduled = start_after;
        } else if waits.is_some() {
            self.scheduled = waits;
        } else if self.scheduled.is_some() {
            self.enter_line();
        }
    }

    pub fn is_suspect(&self) -> bool {
        self.crashes >= SUSPECT_CRASHES
    }

    pub fn change(&mut self, status: OrderStatus) {
        self.status = status;
        self.version += 1;
        self.lease = None;
        self.due = None;
        self.hold = false;
        self.scheduled = None;
    }

    pub fn wait_until(&mut self, due: Timestamp) {
        self.change(OrderStatus::Pending);
        self.due = Some(due);
    }

    pub fn finish(&mut self, status: OrderStatus, now: Timestamp) {
        self.change(status);
        self.finished_at = Some(now);
    }
}
