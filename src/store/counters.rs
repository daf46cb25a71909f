//! How many orders there are in each status.

use crate::order::OrderStatus;

/// The table's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub pending: u64,
    pub processing: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// Sum over Completed orders of completion minus start of the completing attempt, in microseconds.
    pub processing_micros: u64,
}

impl Counters {
    pub fn total(&self) -> u64 {
        self.pending + self.processing + self.completed + self.failed + self.cancelled
    }

    /// Orders that have not ended.
    pub fn open(&self) -> u64 {
        self.pending + self.processing
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
