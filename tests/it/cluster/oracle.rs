//! What a cluster promised, compared with what its clients were told and what its table says afterwards. Each breach
//! begins with the word for the promise that was not kept.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use orderly::event::{Event, EventKind};
use orderly::money::Money;
use orderly::order::{OrderId, OrderStatus, Reference};
use orderly::store::snapshot::OrderRecord;
use orderly::time::Timestamp;

use super::faults::Silence;
use super::nodes::{HEARTBEAT_INTERVAL, LEASE};
use super::shop::Sale;

mod tests;

/// A silent node's lease runs out, and the next heartbeat of any other is followed by a sweep. The rest is for the two
/// statements themselves, on a machine that three servers, their database and their clients keep busy.
const TAKEOVER_TIME_MAX: Duration = LEASE
    .saturating_add(HEARTBEAT_INTERVAL)
    .saturating_add(Duration::from_secs(2));

#[derive(Clone)]
pub struct Evidence {
    /// All of them: nobody else sent orders.
    pub sales: Vec<Sale>,
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
        breaches.extend(self.inversions());
        breaches.extend(self.takeovers().into_iter().filter_map(Takeover::breach));
        breaches
    }

    /// How many events of a kind there are.
    pub fn count(&self, kind: EventKind) -> usize {
        let events = self.records.iter().flat_map(|record| &record.events);
        events.filter(|stored| stored.event.kind == kind).count()
    }

    /// How long the orders of silent nodes waited to be taken from them, at most.
    pub fn longest_takeover(&self) -> Duration {
        let spans = self
            .takeovers()
            .into_iter()
            .filter_map(|takeover| takeover.span());
        spans.max().unwrap_or_default()
    }

    /// Every acknowledged order is stored as it was sent, once, and there is no other.
    fn lost(&self) -> Vec<String> {
        let mut by_id: HashMap<OrderId, &OrderRecord> = HashMap::new();
        by_id.extend(self.records.iter().map(|record| (record.order.order_id, record)));
        let mut breaches = Vec::new();
        for sale in &self.sales {
            let (key, id) = (&sale.key, sale.order_id);
            match by_id.remove(&id) {
                None => breaches.push(format!(
                    "lost: order {id} of {key}, or it answers another key as well"
                )),
                Some(record) if !is_of(record, sale) => {
                    breaches.push(format!("diverged: order {id} of {key} is {:?}", record.order));
                }
                Some(record) => {
                    let status = record.order.status;
                    if sale.cancelled != (status == OrderStatus::Cancelled) {
                        let told = if sale.cancelled { "told" } else { "not told" };
                        breaches.push(format!(
                            "cancelled: order {id} is {}, its client was {told} that it is cancelled",
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

    /// Over all pairs of orders of which the first was acknowledged before the second was sent: the first starts no
    /// later. Positions in the feed rise with the claims. An order that a claim passed over, because it was locked, may be
    /// overtaken by what that claim started.
    fn inversions(&self) -> Vec<String> {
        let starts = self.first_starts();
        let passed_over = self.passed_over();
        let mut breaches = self.overtakers_of_locked(&starts, &passed_over);
        let started = |sale: &Sale| starts.get(&sale.order_id).copied();
        let mut acknowledged: Vec<(Instant, i64, OrderId)> = self
            .sales
            .iter()
            .filter(|sale| !passed_over.contains_key(&sale.order_id))
            .filter_map(|sale| Some((sale.answered, started(sale)?, sale.order_id)))
            .collect();
        acknowledged.sort_unstable();
        let mut sent: Vec<(Instant, i64, OrderId)> = self
            .sales
            .iter()
            .filter_map(|sale| Some((sale.sent, started(sale)?, sale.order_id)))
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
                    "fifo: order {id} started before order {first}, which was acknowledged before it was sent"
                ));
            }
        }
        breaches
    }

    /// The orders that were passed over, each with what was started instead.
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
        for first in &self.sales {
            let (Some(excused), Some(start)) =
                (passed_over.get(&first.order_id), starts.get(&first.order_id))
            else {
                continue;
            };
            let overtook = |later: &&Sale| {
                first.answered < later.sent && starts.get(&later.order_id).is_some_and(|other| other < start)
            };
            for later in self.sales.iter().filter(overtook) {
                if !excused.contains(&later.order_id) {
                    let (later, first) = (later.order_id, first.order_id);
                    breaches.push(format!(
                        "fifo: order {later} started before order {first} without passing it over"
                    ));
                }
            }
        }
        breaches
    }

    /// Places in the feed; an order that was cancelled before it ever started left the line.
    fn first_starts(&self) -> HashMap<OrderId, i64> {
        let first_start = |record: &OrderRecord| {
            let mut events = record.events.iter();
            let started = events.find(|stored| stored.event.kind == EventKind::Started)?;
            Some((record.order.order_id, started.position))
        };
        self.records.iter().filter_map(first_start).collect()
    }

    /// What became of the orders that silent nodes held.
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
                    // What it had sent before it fell silent was carried out later.
                    silent_from: silence.from.max(started.at),
                    ended,
                }));
            }
        }
        takeovers
    }
}

/// An order of a node that fell silent.
struct Takeover {
    order_id: OrderId,
    silent_from: Timestamp,
    /// When the attempt was ended, by whomever.
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

fn is_of(record: &OrderRecord, sale: &Sale) -> bool {
    let (stored, body) = (&record.order.request, &sale.body);
    let amount = body["total_amount"].as_str().map(Money::parse);
    Some(stored.user_id) == body["user_id"].as_i64()
        && stored.item_ids.as_str() == sale.item_ids()
        && Some(Ok(stored.total_amount)) == amount
        && stored.reference.as_ref().map(Reference::as_str) == Some(&*sale.key)
}

/// Nobody redrives here, so an order ends once and nothing comes after.
fn ends(record: &OrderRecord) -> Option<String> {
    let statuses = record.events.iter().map(|stored| stored.event.status);
    let first_final = statuses.clone().position(OrderStatus::is_final);
    (first_final != Some(record.events.len() - 1)).then(|| {
        let names: Vec<&str> = statuses.map(OrderStatus::name).collect();
        format!("ended: order {} went {names:?}", record.order.order_id)
    })
}

/// An attempt is ended for whoever started it.
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
            EventKind::Accepted | EventKind::Cancelled | EventKind::Redriven => {}
        }
    }
    breaches
}
