//! Events of orders: append-only facts, and the table of legal transitions they obey. The store reads them by cursor;
//! `http` sends them to subscribers.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::lease::NodeId;
use crate::order::{AmendedField, Milestone, MilestoneName, OrderId, OrderStatus, Reason};
use crate::time::Timestamp;

/// One change of one order, written in the transaction that made the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub order_id: OrderId,
    /// Counts the events of an order from 1, without gaps.
    pub version: u32,
    pub kind: EventKind,
    /// The status after the event.
    pub status: OrderStatus,
    pub at: Timestamp,
    /// Attempts started and not given back, after the event.
    pub attempt: u32,
    /// The node that processed the order, if any.
    pub node: Option<NodeId>,
    pub error: Option<String>,
    pub detail: EventDetail,
}

/// Facts about a person's action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventDetail {
    /// The reason that was given.
    pub reason: Option<Reason>,
    /// A redrive kept the idempotency key of the attempts before.
    pub same_key: bool,
    pub milestone: Option<Milestone>,
    /// The members that an amendment changed.
    pub fields: Vec<AmendedField>,
}

/// The text of a detail in a store.
#[derive(Serialize, Deserialize)]
struct StoredDetail<'d> {
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    reason: Option<Cow<'d, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    same_key: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    milestone: Option<Cow<'d, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    data: Option<Cow<'d, str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", borrow)]
    fields: Vec<Cow<'d, str>>,
}

impl EventDetail {
    pub fn of_reason(reason: Option<Reason>) -> EventDetail {
        EventDetail {
            reason,
            ..EventDetail::default()
        }
    }

    /// Returns the JSON that a store keeps; `None` if there is nothing to tell.
    pub fn to_stored(&self) -> Option<String> {
        if *self == EventDetail::default() {
            return None;
        }
        let stored = StoredDetail {
            reason: self.reason.as_ref().map(|reason| reason.as_str().into()),
            same_key: self.same_key.then_some(true),
            milestone: self
                .milestone
                .as_ref()
                .map(|milestone| milestone.name.as_str().into()),
            fields: self.fields.iter().map(|field| field.name().into()).collect(),
            data: self
                .milestone
                .as_ref()
                .and_then(|milestone| Some(milestone.data.as_deref()?.into())),
        };
        Some(serde_json::to_string(&stored).expect("texts always serialize"))
    }

    /// Reads the number of the status that a store keeps with an event whose kind does not tell it.
    pub fn stored_status(text: Option<&str>) -> Option<i64> {
        #[derive(Deserialize)]
        struct Stored {
            status: i64,
        }
        serde_json::from_str::<Stored>(text?)
            .ok()
            .map(|stored| stored.status)
    }

    /// Reads the JSON that a store keeps.
    pub fn from_stored(text: Option<&str>) -> Option<EventDetail> {
        let Some(text) = text else {
            return Some(EventDetail::default());
        };
        let stored: StoredDetail<'_> = serde_json::from_str(text).ok()?;
        let reason = stored.reason.map(|text| Reason::parse(&text)).transpose();
        let data = stored.data.map(|text| text.into_owned().into_boxed_str());
        let milestone = match stored.milestone {
            None => None,
            Some(name) => Some(Milestone {
                name: MilestoneName::parse(&name).ok()?,
                data,
            }),
        };
        Some(EventDetail {
            reason: reason.ok()?,
            same_key: stored.same_key.unwrap_or(false),
            milestone,
            fields: stored
                .fields
                .iter()
                .map(|name| AmendedField::parse(name))
                .collect::<Option<_>>()?,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Accepted,
    Started,
    Completed,
    RetryScheduled,
    Failed,
    LeaseLost,
    Released,
    Cancelled,
    Redriven,
    Held,
    Unheld,
    Milestone,
    Amended,
    Overdue,
}

impl EventKind {
    pub const ALL: [EventKind; 14] = [
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

    pub fn name(self) -> &'static str {
        match self {
            EventKind::Accepted => "accepted",
            EventKind::Started => "started",
            EventKind::Completed => "completed",
            EventKind::RetryScheduled => "retry_scheduled",
            EventKind::Failed => "failed",
            EventKind::LeaseLost => "lease_lost",
            EventKind::Released => "released",
            EventKind::Cancelled => "cancelled",
            EventKind::Redriven => "redriven",
            EventKind::Held => "held",
            EventKind::Unheld => "unheld",
            EventKind::Milestone => "milestone",
            EventKind::Amended => "amended",
            EventKind::Overdue => "overdue",
        }
    }

    /// Returns the status of an order after such an event; `None` if the event keeps it.
    pub fn leads_to(self) -> Option<OrderStatus> {
        Some(match self {
            EventKind::Accepted
            | EventKind::RetryScheduled
            | EventKind::LeaseLost
            | EventKind::Released
            | EventKind::Redriven
            | EventKind::Held
            | EventKind::Unheld => OrderStatus::Pending,
            EventKind::Started => OrderStatus::Processing,
            EventKind::Completed => OrderStatus::Completed,
            EventKind::Failed => OrderStatus::Failed,
            EventKind::Cancelled => OrderStatus::Cancelled,
            EventKind::Milestone | EventKind::Amended | EventKind::Overdue => return None,
        })
    }
}

impl OrderStatus {
    /// Returns the status after an event, or `None` if the event is not legal. `from` is `None` for an order that does
    /// not exist yet. The whole state diagram is here and nowhere else.
    pub fn after(from: Option<OrderStatus>, kind: EventKind) -> Option<OrderStatus> {
        use OrderStatus::{Cancelled, Failed, Pending, Processing};
        let legal_from: &[Option<OrderStatus>] = match kind {
            EventKind::Accepted => &[None],
            EventKind::Started | EventKind::Held | EventKind::Unheld => &[Some(Pending)],
            EventKind::Milestone => return from,
            EventKind::Amended => return from.filter(|status| matches!(status, Pending | Failed)),
            EventKind::Overdue => return from.filter(|status| !status.is_final()),
            EventKind::Completed
            | EventKind::RetryScheduled
            | EventKind::LeaseLost
            | EventKind::Released
            | EventKind::Failed => &[Some(Processing)],
            EventKind::Cancelled => &[Some(Pending), Some(Processing), Some(Failed)],
            // For a Pending order: it no longer waits for its time.
            EventKind::Redriven => &[Some(Failed), Some(Cancelled), Some(Pending)],
        };
        if legal_from.contains(&from) {
            kind.leads_to()
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_redrive_or_a_cancel_of_a_failed_order_leaves_a_final_status() {
        for status in OrderStatus::ALL.into_iter().filter(|status| status.is_final()) {
            let allowed: &[EventKind] = match status {
                OrderStatus::Failed => &[EventKind::Cancelled, EventKind::Redriven],
                OrderStatus::Cancelled => &[EventKind::Redriven],
                _ => &[],
            };
            assert_eq!(
                OrderStatus::after(Some(status), EventKind::Milestone),
                Some(status)
            );
            for kind in EventKind::ALL
                .into_iter()
                .filter(|kind| kind.leads_to().is_some())
            {
                let moved = OrderStatus::after(Some(status), kind).is_some();
                assert_eq!(moved, allowed.contains(&kind), "{status:?} {kind:?}");
            }
        }
    }

    #[test]
    fn a_detail_survives_a_round_trip() {
        for detail in [
            EventDetail::default(),
            EventDetail {
                reason: Some(Reason::parse("the customer \"called\"").unwrap()),
                ..EventDetail::default()
            },
            EventDetail {
                same_key: true,
                ..EventDetail::default()
            },
            EventDetail {
                milestone: Some(Milestone {
                    name: MilestoneName::parse("shipped").unwrap(),
                    data: Some("{ \"tracking\": \"1Z\\u00e9\" }".into()),
                }),
                ..EventDetail::default()
            },
        ] {
            let stored = detail.to_stored();
            assert_eq!(EventDetail::from_stored(stored.as_deref()), Some(detail));
        }
        assert_eq!(EventDetail::default().to_stored(), None);
        assert_eq!(EventDetail::from_stored(Some("{\"reason\":\"\"}")), None);
    }

    #[test]
    fn an_order_is_accepted_once() {
        assert_eq!(
            OrderStatus::after(None, EventKind::Accepted),
            Some(OrderStatus::Pending)
        );
        for status in OrderStatus::ALL {
            assert_eq!(OrderStatus::after(Some(status), EventKind::Accepted), None);
        }
    }
}
