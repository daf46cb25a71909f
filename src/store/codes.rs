//! The numbers that stand for statuses, kinds of events and other enums in the tables of both drivers.

use crate::event::EventKind;
use crate::lease::ProcessorKind;
use crate::order::{OnFailure, OnHold, OrderStatus, Ordering};
use crate::store::Breaker;

const STATUSES: [OrderStatus; 5] = [
    OrderStatus::Pending,
    OrderStatus::Processing,
    OrderStatus::Completed,
    OrderStatus::Failed,
    OrderStatus::Cancelled,
];

const KINDS: [EventKind; 14] = [
    EventKind::Accepted,
    EventKind::Started,
    EventKind::Completed,
    EventKind::RetryScheduled,
    EventKind::Failed,
    EventKind::LeaseLost,
    EventKind::Released,
    EventKind::Cancelled,
    EventKind::Redriven,
    EventKind::Held,
    EventKind::Unheld,
    EventKind::Milestone,
    EventKind::Amended,
    EventKind::Overdue,
];

const ORDERINGS: [Ordering; 5] = [
    Ordering::None,
    Ordering::by_user(OnFailure::Skip),
    Ordering::by_user(OnFailure::Block),
    Ordering::User {
        on_failure: OnFailure::Skip,
        on_hold: OnHold::Skip,
    },
    Ordering::User {
        on_failure: OnFailure::Block,
        on_hold: OnHold::Skip,
    },
];

const BREAKERS: [Breaker; 3] = [Breaker::Closed, Breaker::Open, Breaker::HalfOpen];

pub(super) fn status_code(status: OrderStatus) -> i16 {
    code_of(&STATUSES, &status)
}

/// The number of a status in a row that does not distinguish Processing from Pending.
pub(super) fn stored_status_code(status: OrderStatus) -> i16 {
    match status {
        OrderStatus::Processing => status_code(OrderStatus::Pending),
        other => status_code(other),
    }
}

pub(super) fn status_of(code: i64) -> Option<OrderStatus> {
    value_of(&STATUSES, code)
}

pub(super) fn kind_code(kind: EventKind) -> i16 {
    code_of(&KINDS, &kind)
}

pub(super) fn kind_of(code: i64) -> Option<EventKind> {
    value_of(&KINDS, code)
}

pub(super) fn breaker_code(breaker: Breaker) -> i16 {
    code_of(&BREAKERS, &breaker)
}

pub(super) fn breaker_of(code: i64) -> Option<Breaker> {
    value_of(&BREAKERS, code)
}

pub(super) fn ordering_code(ordering: Ordering) -> i16 {
    code_of(&ORDERINGS, &ordering)
}

pub(super) fn ordering_of(code: i64) -> Option<Ordering> {
    value_of(&ORDERINGS, code)
}

pub(super) fn processor_code(processor: ProcessorKind) -> i16 {
    code_of(&ProcessorKind::ALL, &processor)
}

pub(super) fn processor_of(code: i64) -> Option<ProcessorKind> {
    value_of(&ProcessorKind::ALL, code)
}

fn code_of<T: PartialEq>(codes: &[T], value: &T) -> i16 {
    let code = codes
        .iter()
        .position(|known| known == value)
        .expect("a test proves that the tables of codes hold every variant");
    i16::try_from(code).expect("there are few variants")
}

fn value_of<T: Copy>(codes: &[T], code: i64) -> Option<T> {
    usize::try_from(code)
        .ok()
        .and_then(|code| codes.get(code).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_its_code() {
        assert!(OrderStatus::ALL.iter().all(|status| STATUSES.contains(status)));
        assert!(EventKind::ALL.iter().all(|kind| KINDS.contains(kind)));
    }
}
