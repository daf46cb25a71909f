//! Compares a cluster's promises with the answers its clients got and with the final table. Each breach begins with the
//! name of the broken promise.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use orderly::event::{Event, EventKind};
use orderly::money::Money;
use orderly::order::{OrderId, OrderStatus, Reference};
use orderly::store::snapshot::OrderRecord;
use orderly::time::Timestamp;

use super::faults::Silence;
use super::load::AcceptedOrder;
use super::nodes::{HEARTBEAT_INTERVAL, LEASE};
use crate::support::redis;

mod tests;

/// The longest takeover: the lease expires, and the next heartbeat of another node is followed by a sweep. The rest
/// allows for both statements on a busy machine.
const TAKEOVER_TIME_MAX: Duration = LEASE
    .saturating_add(HEARTBEAT_INTERVAL)
    .saturating_add(Duration::from_secs(2));

#[derive(Clone)]
pub struct Evidence {
    /// All orders that were sent.
    pub accepted_orders: Vec<AcceptedOrder>,
    pub silences: Vec<Silence>,
    pub records: Vec<OrderRecord>,
}

impl Evidence {
    pub fn breaches(&self) -> Vec<String> {
        let mut breaches = self.lost();
        for record in &self.records {
            breaches.extend(ends(record));
            breaches.extend(fenced(record));
        }
        if !redis::is_under_all() {
            breaches.extend(self.inversions());
        }
        breaches.extend(self.takeovers().into_iter().filter_map(Takeover::breach));
        breaches
    }

    /// The same for a cluster with Redis, which hands out orders as they reach it.
    pub fn breaches_with_redis(&self) -> Vec<String> {
        let mut breaches = self.breaches();
        breaches.retain(|breach| !breach.starts_with("fifo: "));
        breaches
    }

    /// The longest time from acceptance to the first start.
    pub fn longest_wait(&self) -> Duration {
        let waits = self.records.iter().filter_map(|record| {
            let mut events = record.events.iter().map(|stored| &stored.event);
            let started = events.find(|event| event.kind == EventKind::Started)?;
            Some(started.at.since(record.order.created_at))
        });
        waits.max().unwrap_or_default()
    }

    /// Number of events of a kind.
    pub fn count(&self, kind: EventKind) -> usize {
        let events = self.records.iter().flat_map(|record| &record.events);
        events.filter(|stored| stored.event.kind == kind).count()
    }

    /// The longest time that orders of silent nodes waited for a takeover.
    pub fn longest_takeover(&self) -> Duration {
        let spans = self
            .takeovers()
            .into_iter()
            .filter_map(|takeover| takeover.span());
        spans.max().unwrap_or_default()
    }

    /// Breaches unless every acknowledged order is stored as sent, exactly once, and no other order exists.
    fn lost(&self) -> Vec<String> {
        let mut by_id: HashMap<OrderId, &OrderRecord> = HashMap::new();
        by_id.extend(self.records.iter().map(|record| (record.order.order_id, record)));
        let mut breaches = Vec::new();
        for accepted in &self.accepted_orders {
            let (key, id) = (&accepted.key, accepted.order_id);
            match by_id.remove(&id) {
                None => breaches.push(format!(
                    "lost: order {id} of {key}, or it belongs to another key as well"
                )),
                Some(record) if !is_of(record, accepted) => {
                    breaches.push(format!("diverged: order {id} of {key} is {:?}", record.order));
                }
                Some(record) => {
                    let status = record.order.status;
                    if accepted.cancelled != (status == OrderStatus::Cancelled) {
                        let delivered = if accepted.cancelled { "told" } else { "not told" };
                        breaches.push(format!(
                            "cancelled: order {id} is {}, its client was {delivered} that it was cancelled",
                            status.name()
                        ));
                    }
                }
            }
        }
        breaches.extend(
            by_id
                .keys()
                .map(|id| format!("duplicated: nobody was told of order {id}")),
        );
        breaches
    }

    /// Checks all pairs of orders of which the first was acknowledged before the second was sent: the first must start
    /// no later, by feed position. An order that a claim skipped because it was locked may be overtaken by the orders
    /// of that claim.
    fn inversions(&self) -> Vec<String> {
        let starts = self.first_starts();
        let passed_over = self.passed_over();
        let mut breaches = self.overtakers_of_locked(&starts, &passed_over);
        let started = |accepted: &AcceptedOrder| starts.get(&accepted.order_id).copied();
        let mut acknowledged: Vec<(Instant, i64, OrderId)> = self
            .accepted_orders
            .iter()
            .filter(|accepted| !passed_over.contains_key(&accepted.order_id))
            .filter_map(|accepted| Some((accepted.answered, started(accepted)?, accepted.order_id)))
            .collect();
        acknowledged.sort_unstable();
        let mut sent: Vec<(Instant, i64, OrderId)> = self
            .accepted_orders
            .iter()
            .filter_map(|accepted| Some((accepted.sent, started(accepted)?, accepted.order_id)))
            .collect();
        sent.sort_unstable();
        let mut acknowledged = acknowledged.into_iter().peekable();
        let mut latest: Option<(i64, OrderId)> = None;
        for (sent, start, id) in sent {
            while let Some((_, start, id)) = acknowledged.next_if(|(answered, _, _)| *answered < sent) {
                latest = latest.max(Some((start, id)));
            }
            if let Some((latest, first)) = latest
                && latest > start
            {
                breaches.push(format!(
                    "fifo: order {id} started before order {first}, although that was acknowledged before this was sent"
                ));
            }
        }
        breaches
    }

    /// Skipped orders, each with the orders started instead.
    fn passed_over(&self) -> HashMap<OrderId, HashSet<OrderId>> {
        let mut passed_over: HashMap<OrderId, HashSet<OrderId>> = HashMap::new();
        let events = self.records.iter().flat_map(|record| &record.events);
        for stored in events {
            for id in &stored.passed_over {
                passed_over.entry(*id).or_default().insert(stored.event.order_id);
            }
        }
        passed_over
    }

    fn overtakers_of_locked(
        &self,
        starts: &HashMap<OrderId, i64>,
        passed_over: &HashMap<OrderId, HashSet<OrderId>>,
    ) -> Vec<String> {
        let mut breaches = Vec::new();
        for first in &self.accepted_orders {
            let (Some(excused), Some(start)) =
                (passed_over.get(&first.order_id), starts.get(&first.order_id))
            else {
                continue;
            };
            let overtook = |later: &&AcceptedOrder| {
                first.answered < later.sent && starts.get(&later.order_id).is_some_and(|other| other < start)
            };
            for later in self.accepted_orders.iter().filter(overtook) {
                if !excused.contains(&later.order_id) {
                    let (later, first) = (later.order_id, first.order_id);
                    breaches.push(format!(
                        "fifo: order {later} started before order {first} without having skipped it"
                    ));
                }
            }
        }
        breaches
    }

    /// Feed positions of first starts. Orders cancelled before their first start have none.
    fn first_starts(&self) -> HashMap<OrderId, i64> {
        let first_start = |record: &OrderRecord| {
            let mut events = record.events.iter();
            let started = events.find(|stored| stored.event.kind == EventKind::Started)?;
            Some((record.order.order_id, started.position))
        };
        self.records.iter().filter_map(first_start).collect()
    }

    /// Takeovers of orders that silent nodes held.
    fn takeovers(&self) -> Vec<Takeover> {
        let mut takeovers = Vec::new();
        for record in &self.records {
            let events: Vec<&Event> = record.events.iter().map(|stored| &stored.event).collect();
            for (index, started) in events.iter().enumerate() {
                if started.kind != EventKind::Started {
                    continue;
                }
                let ended = events.get(index + 1).map(|event| event.at);
                let meets = |silence: &&Silence| {
                    Some(silence.node) == started.node
                        && ended.is_none_or(|ended| ended >= silence.from)
                        && silence.until.is_none_or(|until| started.at <= until)
                };
                takeovers.extend(self.silences.iter().filter(meets).map(|silence| Takeover {
                    order_id: record.order.order_id,
                    // Statements sent before the node fell silent were carried out later.
                    silent_from: silence.from.max(started.at),
                    ended,
                }));
            }
        }
        takeovers
    }
}

/// An order whose node fell silent.
struct Takeover {
    order_id: OrderId,
    silent_from: Timestamp,
    /// The time at which the attempt ended, by any node.
    ended: Option<Timestamp>,
}

impl Takeover {
    fn span(&self) -> Option<Duration> {
        Some(self.ended?.since(self.silent_from))
    }

    fn breach(self) -> Option<String> {
        let id = self.order_id;
        match self.span() {
            Some(span) if span <= TAKEOVER_TIME_MAX => None,
            Some(span) => Some(format!("takeover: order {id} was taken over only after {span:?}")),
            None => Some(format!("takeover: order {id} was never taken over")),
        }
    }
}

fn is_of(record: &OrderRecord, accepted: &AcceptedOrder) -> bool {
    let (stored, body) = (&record.order.request, &accepted.body);
    let amount = body["total_amount"].as_str().map(|text| Money::parse(text, 2));
    body["user_id"]
        .as_i64()
        .is_some_and(|user| stored.user_id == user)
        && stored.items.codes() == accepted.item_ids()
        && Some(Ok(stored.total_amount)) == amount
        && stored.reference.as_ref().map(Reference::as_str) == Some(&*accepted.key)
}

/// Breaches unless the order ends exactly once and has no later event. No order is redriven here.
fn ends(record: &OrderRecord) -> Option<String> {
    let statuses = record.events.iter().map(|stored| stored.event.status);
    let first_final = statuses.clone().position(OrderStatus::is_final);
    (first_final != Some(record.events.len() - 1)).then(|| {
        let names: Vec<&str> = statuses.map(OrderStatus::name).collect();
        format!("ended: order {} went {names:?}", record.order.order_id)
    })
}

/// Breaches unless every attempt is ended for the node that started it.
fn fenced(record: &OrderRecord) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut holder = None;
    for stored in &record.events {
        let event = &stored.event;
        match event.kind {
            EventKind::Started => holder = event.node,
            EventKind::Completed
            | EventKind::RetryScheduled
            | EventKind::Failed
            | EventKind::LeaseLost
            | EventKind::Released => {
                if event.node != holder {
                    let (id, kind) = (event.order_id, event.kind.name());
                    breaches.push(format!(
                        "fenced: {kind} of {:?} at order {id}, which {holder:?} held",
                        event.node
                    ));
                }
            }
            EventKind::Accepted
            | EventKind::Cancelled
            | EventKind::Redriven
            | EventKind::Held
            | EventKind::Unheld
            | EventKind::Milestone
            | EventKind::Amended
            | EventKind::Overdue => {}
        }
    }
    breaches
}
