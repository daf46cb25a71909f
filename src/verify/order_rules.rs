//! Rules for one order and its events.

use super::{Promise, Report};
use crate::event::{Event, EventKind};
use crate::lease::NodeId;
use crate::order::{AmendedField, Order, OrderStatus};
use crate::store::snapshot::OrderRecord;
use crate::time::Timestamp;

/// Returns the version at which an amendment last changed the order's `start_after`. Such a change moves the order between the lines
/// without an event of its own.
pub(super) fn amended_time(record: &OrderRecord) -> Option<u32> {
    let mut latest_first = record.events.iter().rev();
    let found = latest_first.find(|stored| stored.event.detail.fields.contains(&AmendedField::StartAfter));
    found.map(|stored| stored.event.version)
}

pub fn check(record: &OrderRecord, report: &mut Report) {
    let mut findings = Findings { record, report };
    let history = findings.follow_events();
    findings.check_last_event();
    findings.check_history(&history);
    findings.check_end(&history);
    findings.check_lease();
    findings.check_due_time(&history);
    findings.check_set_aside(&history);
    findings.check_last_error(&history);
}

/// State of an order according to its events.
#[derive(Default)]
struct History {
    status: Option<OrderStatus>,
    attempts: u32,
    generation: u32,
    /// Time of the last start.
    started_at: Option<Timestamp>,
    /// Node of the last start.
    started_by: Option<NodeId>,
    /// Time of the end, if the order has ended.
    ended_at: Option<Timestamp>,
    /// Set once the order left the first line: it was started, redriven or released.
    second_line: bool,
    /// Time of the hold, while the order is held.
    held_at: Option<Timestamp>,
    /// Error of the last attempt since the last redrive that failed or was given back with a reason. A lost lease says
    /// nothing about the order.
    last_error: Option<String>,
}

struct Findings<'a> {
    record: &'a OrderRecord,
    report: &'a mut Report,
}

impl Findings<'_> {
    fn order(&self) -> &Order {
        &self.record.order
    }

    fn breach(&mut self, promise: Promise, detail: String) {
        let id = self.record.order.order_id;
        self.report.breach(promise, Some(id), detail);
    }

    fn follow_events(&mut self) -> History {
        let record = self.record;
        let mut history = History {
            held_at: self.held_from_the_start(),
            ..History::default()
        };
        for (index, stored) in record.events.iter().enumerate() {
            let event = &stored.event;
            let previous = index.checked_sub(1).map(|before| &record.events[before]);
            if event.order_id != record.order.order_id {
                let detail = format!("event {} belongs to order {}", event.version, event.order_id);
                self.breach(Promise::DenseEvents, detail);
            }
            if u32::try_from(index + 1) != Ok(event.version) {
                let detail = format!("event {} has version {}", index + 1, event.version);
                self.breach(Promise::DenseEvents, detail);
            }
            if previous.is_some_and(|previous| previous.position >= stored.position) {
                let detail = format!(
                    "version {} is not after its predecessor in the feed",
                    event.version
                );
                self.breach(Promise::DenseEvents, detail);
            }
            if previous.is_some_and(|previous| previous.event.at > event.at) {
                let detail = format!("version {} is older than its predecessor", event.version);
                self.breach(Promise::Times, detail);
            }
            self.check_step(history.status, event);
            self.check_start(&history, event);
            self.check_attempt(&history, event);
            self.check_node(&history, event);
            history.follow(event);
        }
        history
    }

    fn check_step(&mut self, from: Option<OrderStatus>, event: &Event) {
        let (version, kind) = (event.version, event.kind.name());
        match OrderStatus::after(from, event.kind) {
            Some(status) if status == event.status => {}
            Some(_) => {
                let detail = format!("version {version}, {kind}, leads to {}", event.status.name());
                self.breach(Promise::LegalSteps, detail);
            }
            None => {
                let from_name = from.map_or("nothing", OrderStatus::name);
                let promise = match from {
                    Some(status) if status.is_final() => Promise::OneEnd,
                    Some(_) | None => Promise::LegalSteps,
                };
                self.breach(promise, format!("version {version}, {kind}, from {from_name}"));
            }
        }
    }

    /// Returns the time of acceptance if the order was held from then on.
    fn held_from_the_start(&self) -> Option<Timestamp> {
        let mut kinds = self.record.events.iter().map(|stored| stored.event.kind);
        let first_change = kinds.find(|kind| matches!(kind, EventKind::Held | EventKind::Unheld));
        let created_at = self.order().created_at;
        let held = first_change == Some(EventKind::Unheld)
            || first_change.is_none() && self.order().held_at == Some(created_at);
        held.then_some(created_at)
    }

    fn check_start(&mut self, history: &History, event: &Event) {
        if event.kind != EventKind::Started {
            return;
        }
        let version = event.version;
        if history.held_at.is_some() {
            self.breach(
                Promise::LegalSteps,
                format!("version {version} started the order while it was held"),
            );
        }
        let start_after = self.order().request.start_after;
        let applies = amended_time(self.record).is_none_or(|amended| amended < version);
        if applies && start_after.is_some_and(|time| event.at < time) {
            self.breach(
                Promise::LegalSteps,
                format!("version {version} started the order before its start_after"),
            );
        }
    }

    fn check_attempt(&mut self, history: &History, event: &Event) {
        let expected = history.attempts_after(event.kind);
        if event.attempt != expected {
            let detail = format!(
                "version {}, {}, counts {} attempts instead of {expected}",
                event.version,
                event.kind.name(),
                event.attempt
            );
            self.breach(Promise::Attempts, detail);
        }
    }

    fn check_node(&mut self, history: &History, event: &Event) {
        if !ends_attempt(event.kind) || event.node == history.started_by {
            return;
        }
        let name =
            |node: Option<NodeId>| node.map_or_else(|| "no node".to_owned(), |node| format!("node {node}"));
        let detail = format!(
            "version {}, {}, ends an attempt of {} for {}",
            event.version,
            event.kind.name(),
            name(history.started_by),
            name(event.node)
        );
        self.breach(Promise::Fenced, detail);
    }

    fn check_last_event(&mut self) {
        let Some(last) = self.record.events.last() else {
            return self.breach(Promise::DenseEvents, "has no events".to_owned());
        };
        let (order, last) = (self.order(), &last.event);
        if (order.status, order.version) != (last.status, last.version) {
            let detail = format!(
                "is {} at version {}, its last event says {} at version {}",
                order.status.name(),
                order.version,
                last.status.name(),
                last.version
            );
            self.breach(Promise::LastEvent, detail);
        }
    }

    fn check_history(&mut self, history: &History) {
        let order = self.order();
        let (attempts, generation) = (order.attempts, order.generation);
        let created_at = order.created_at;
        let processing_at = order.processing_at;
        if attempts != history.attempts {
            let detail = format!("counts {attempts} attempts, its events {}", history.attempts);
            self.breach(Promise::Attempts, detail);
        }
        if generation != history.generation {
            let detail = format!("counts {generation} redrives, its events {}", history.generation);
            self.breach(Promise::LastEvent, detail);
        }
        let accepted_at = self.record.events.first().map(|first| first.event.at);
        if accepted_at.is_some_and(|accepted_at| accepted_at != created_at) {
            let detail = "created_at is not the time of its first event".to_owned();
            self.breach(Promise::Times, detail);
        }
        if processing_at != history.started_at {
            let detail = "processing_at is not the time of its last start".to_owned();
            self.breach(Promise::Times, detail);
        }
    }

    fn check_end(&mut self, history: &History) {
        if self.order().finished_at != history.ended_at {
            let detail = "finished_at is not the time of its end".to_owned();
            self.breach(Promise::Times, detail);
        }
    }

    fn check_lease(&mut self) {
        let processing = self.order().status == OrderStatus::Processing;
        match &self.record.lease {
            Some(lease) if !processing => {
                let detail = format!(
                    "is {} and held by node {}",
                    self.order().status.name(),
                    lease.node
                );
                self.breach(Promise::Leases, detail);
            }
            None if processing => self.breach(Promise::Leases, "is Processing without a lease".to_owned()),
            Some(_) | None => {}
        }
    }

    fn check_due_time(&mut self, history: &History) {
        if amended_time(self.record).is_some() {
            return;
        }
        let order = self.order();
        let scheduled = order
            .request
            .start_after
            .is_some_and(|time| time > order.created_at);
        let expected = order.status == OrderStatus::Pending
            && !self.record.set_aside
            && (history.second_line || scheduled);
        let detail = match (order.next_attempt_at.is_some(), expected) {
            (true, true) | (false, false) => return,
            (false, true) => "waits in the second line without a next_attempt_at".to_owned(),
            (true, false) => format!(
                "has a next_attempt_at though it is {}{}",
                order.status.name(),
                if order.status == OrderStatus::Pending {
                    " in the first line"
                } else {
                    ""
                }
            ),
        };
        self.breach(Promise::SecondLine, detail);
    }

    /// Compares a hold with the events.
    fn check_set_aside(&mut self, history: &History) {
        let order = &self.record.order;
        let may_be_aside = order.held_at.is_some()
            || order
                .request
                .start_after
                .is_some_and(|time| time > order.created_at);
        if self.record.set_aside && (order.status != OrderStatus::Pending || !may_be_aside) {
            self.breach(
                Promise::SecondLine,
                "is in no line and neither held nor scheduled".to_owned(),
            );
        }
        if order.held_at.is_some() && !self.record.set_aside {
            self.breach(Promise::SecondLine, "is held and in a line".to_owned());
        }
        if order.held_at != history.held_at {
            self.breach(Promise::LastEvent, "is held other than its events say".to_owned());
        }
    }

    fn check_last_error(&mut self, history: &History) {
        let order = self.order();
        let detail = match (&order.last_error, &history.last_error) {
            (None, None) if order.status == OrderStatus::Failed => "is Failed without a last_error",
            (None, None) => return,
            (Some(_), None) => "has a last_error although no attempt failed",
            (None, Some(_)) => "has no last_error although an attempt failed",
            (Some(shown), Some(of_events)) if shown == of_events => return,
            (Some(_), Some(_)) => "has a last_error other than that of the last attempt that failed",
        };
        self.breach(Promise::LastError, detail.to_owned());
    }
}

impl History {
    fn follow(&mut self, event: &Event) {
        self.attempts = self.attempts_after(event.kind);
        let reopens = self.redrive_reopens();
        // The event's own status, so that one bad step is not reported again for every later event.
        self.status = Some(event.status);
        if event.kind.leads_to().is_some() {
            self.ended_at = event.status.is_final().then_some(event.at);
        }
        self.held_at = self.held_at.filter(|_| !event.status.is_final());
        match event.kind {
            EventKind::Started => {
                self.started_at = Some(event.at);
                self.started_by = event.node;
                self.second_line = true;
            }
            EventKind::Redriven if !reopens => self.second_line = true,
            EventKind::Held => self.held_at = Some(event.at),
            EventKind::Unheld => {
                self.held_at = None;
                self.second_line = true;
            }
            EventKind::Redriven => {
                self.generation += u32::from(!event.detail.same_key);
                self.second_line = true;
                self.last_error = None;
            }
            EventKind::RetryScheduled | EventKind::Failed => self.last_error.clone_from(&event.error),
            EventKind::Completed => self.last_error = None,
            EventKind::Released if event.error.is_some() => self.last_error.clone_from(&event.error),
            EventKind::Accepted
            | EventKind::LeaseLost
            | EventKind::Released
            | EventKind::Cancelled
            | EventKind::Milestone
            | EventKind::Amended
            | EventKind::Overdue => {}
        }
    }

    /// Reports whether a redrive reopens the order, rather than ending the backoff of a Pending one.
    fn redrive_reopens(&self) -> bool {
        self.status != Some(OrderStatus::Pending)
    }

    /// Returns the attempts after an event: starts since the last redrive that were not given back.
    fn attempts_after(&self, kind: EventKind) -> u32 {
        match kind {
            EventKind::Redriven if !self.redrive_reopens() => self.attempts,
            EventKind::Accepted | EventKind::Redriven => 0,
            EventKind::Started => self.attempts + 1,
            EventKind::LeaseLost | EventKind::Released => self.attempts.saturating_sub(1),
            EventKind::Completed
            | EventKind::RetryScheduled
            | EventKind::Failed
            | EventKind::Cancelled
            | EventKind::Held
            | EventKind::Unheld
            | EventKind::Milestone
            | EventKind::Amended
            | EventKind::Overdue => self.attempts,
        }
    }
}

fn ends_attempt(kind: EventKind) -> bool {
    match kind {
        EventKind::Completed
        | EventKind::RetryScheduled
        | EventKind::Failed
        | EventKind::LeaseLost
        | EventKind::Released => true,
        // A client cancels, with or without a running attempt.
        EventKind::Accepted
        | EventKind::Started
        | EventKind::Cancelled
        | EventKind::Redriven
        | EventKind::Held
        | EventKind::Unheld
        | EventKind::Milestone
        | EventKind::Amended
        | EventKind::Overdue => false,
    }
}
