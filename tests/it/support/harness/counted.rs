//! The counters as a recount of the table finds them.

use orderly::order::OrderStatus;
use orderly::store::Counters;
use orderly::store::snapshot::OrderRecord;

use super::Harness;

impl Harness {
    pub async fn recount(&self) -> Counters {
        recount(&self.records().await)
    }
}

pub fn recount(records: &[OrderRecord]) -> Counters {
    let mut counters = Counters::default();
    for record in records {
        let order = &record.order;
        match order.status {
            OrderStatus::Pending => counters.pending += 1,
            OrderStatus::Processing => counters.processing += 1,
            OrderStatus::Completed => counters.completed += 1,
            OrderStatus::Failed => counters.failed += 1,
            OrderStatus::Cancelled => counters.cancelled += 1,
        }
        match (order.held_at, record.set_aside) {
            (Some(_), _) => counters.held += 1,
            (None, true) => counters.scheduled += 1,
            (None, false) => {}
        }
        if order.status == OrderStatus::Completed {
            let finished = order.finished_at.expect("a completed order ended");
            let started = order.processing_at.expect("a completed order started");
            counters.processing_micros += u64::try_from(finished.since(started).as_micros()).unwrap();
        }
    }
    counters
}
