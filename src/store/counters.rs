//! The number of orders in each status.

use crate::order::OrderStatus;

/// Orders by status, equal to a recount of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub pending: u64,
    pub processing: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// Pending orders that are held.
    pub held: u64,
    /// Other Pending orders that wait for their `start_after`.
    pub scheduled: u64,
    /// Sum of the durations of the completing attempts of all Completed orders, in microseconds.
    pub processing_micros: u64,
}

impl Counters {
    pub fn total(&self) -> u64 {
        self.pending + self.processing + self.completed + self.failed + self.cancelled
    }

    /// Pending orders that are neither held nor scheduled.
    pub fn waiting(&self) -> u64 {
        self.pending.saturating_sub(self.held + self.scheduled)
    }

    /// Orders that nodes process now or could process next.
    pub fn active(&self) -> u64 {
        self.waiting() + self.processing
    }

    pub fn of(&self, status: OrderStatus) -> u64 {
        match status {
            OrderStatus::Pending => self.pending,
            OrderStatus::Processing => self.processing,
            OrderStatus::Completed => self.completed,
            OrderStatus::Failed => self.failed,
            OrderStatus::Cancelled => self.cancelled,
        }
    }
}
