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
            lease: None,
        }
    }

    pub fn visible(&self) -> ModelOrder {
        ModelOrder {
            lease: None,
            scheduled: None,
            due: self.due.filter(|_| !self.hold),
            ..self.clone()
        }
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
