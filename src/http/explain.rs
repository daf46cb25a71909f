//! Explains why an order waits: translates the store's knowledge of the order into reasons that a person can act on.
//! Store and worker decide which orders start; this module only reports it.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

mod estimate;
mod reason;

use estimate::{EstimateBody, estimate};
pub use reason::Reason;

use super::body;
use super::call::{Call, unknown_order};
use super::openapi::StatusName;
use super::openapi::UnknownOrder;
use super::problem::Problem;
use crate::diagnosis::Finding;
use crate::lease::RESULT_REFUSED;
use crate::order::{Order, OrderStatus};
use crate::order_json::Time;
use crate::store::{AHEAD_MAX, Breaker, CurrentLease, Explanation, Node, Place, Predecessor, QueueState};
use crate::time::Timestamp;
use crate::worker::ServiceTrouble;

/// Explain why an order waits
#[utoipa::path(
    get, operation_id = "explainOrder", path = "/orders/{id}/explain", tag = "orders",
    params(("id" = i64, Path, description = "The order's id")),
    responses(
        (status = 200, description = "The reasons why the order does not start, most important first, and its estimated start", body = ExplanationBody),
        UnknownOrder,
    )
)]
pub async fn explain(call: Call) -> Result<Response, Problem> {
    let monitor = &call.shared.monitor;
    let explained = call.shared.store.explain(call.order_id()?).await?;
    let explained = explained.ok_or_else(unknown_order)?;
    let mut explanation = ExplanationBody::of(&explained, monitor.settings().rate_limit);
    if explained.order.status == OrderStatus::Pending {
        explanation.add_advice(&monitor.findings().await);
    }
    if let Some(trouble) = call.shared.service_trouble() {
        explanation.add_trouble(&trouble);
    }
    body::json(StatusCode::OK, &explanation)
}

/// The reasons why an order waits, read at about the same time.
#[derive(Serialize, ToSchema)]
#[schema(as = Explanation)]
pub struct ExplanationBody {
    order_id: i64,
    #[schema(value_type = StatusName)]
    status: &'static str,
    /// Never empty; the most important first.
    reasons: Vec<ReasonBody>,
    /// Position among the orders of its line that could start, from 1; null if it could not. Orders that have started
    /// before wait in a second line, and the two lines take turns.
    #[schema(required)]
    position: Option<u64>,
    /// True when the position is at least that: no more orders are counted.
    position_at_least: bool,
    /// Null without a basis for an estimate.
    #[schema(required)]
    estimated_start: Option<EstimateBody>,
}

/// One reason that keeps an order from starting, or its state once it has started.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplainedReason)]
pub struct ReasonBody {
    reason: Reason,
    detail: String,
    /// The order that it waits for or follows.
    #[schema(required)]
    order_id: Option<i64>,
    /// The time when the reason ends, if known.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    until: Option<Time>,
}

impl ExplanationBody {
    fn of(explanation: &Explanation, rate_limit: Option<f64>) -> ExplanationBody {
        let order = &explanation.order;
        let reasons = match order.status {
            OrderStatus::Pending => waiting(explanation),
            OrderStatus::Processing => {
                let mut reasons: Vec<ReasonBody> = refused_now(explanation).into_iter().collect();
                reasons.push(processing(order, explanation.lease));
                reasons.extend(locked(explanation));
                reasons
            }
            OrderStatus::Completed | OrderStatus::Failed | OrderStatus::Cancelled => {
                let mut reasons = vec![ended(order)];
                reasons.extend(refused_before(order));
                reasons
            }
        };
        ExplanationBody {
            order_id: order.order_id.0,
            status: order.status.name(),
            position: explanation.place.map(|place| place.ahead + 1),
            position_at_least: explanation.place.is_some_and(|place| place.ahead >= AHEAD_MAX),
            estimated_start: estimate(explanation, &reasons, rate_limit),
            reasons,
        }
    }
}

impl ExplanationBody {
    /// Adds cause and advice of the findings on which the reasons rest: what `orderly doctor` says.
    fn add_advice(&mut self, findings: &[Finding]) {
        for given in &mut self.reasons {
            let rules = given.reason.rules();
            let Some(found) = findings.iter().find(|finding| rules.contains(&finding.rule)) else {
                continue;
            };
            let because = found
                .because
                .as_ref()
                .map_or_else(String::new, |because| format!(" ({because})"));
            given.detail = format!("{}{because}: {}", given.detail, found.action);
        }
    }

    /// Adds the service's last answer to this node to the reason that rests on it.
    fn add_trouble(&mut self, trouble: &ServiceTrouble) {
        let mut reasons = self.reasons.iter_mut();
        let waits_for_service =
            |given: &&mut ReasonBody| matches!(given.reason, Reason::BreakerOpen | Reason::BreakerHalfOpen);
        if let Some(given) = reasons.find(waits_for_service) {
            given.detail = format!("{}; its last answer: {}", given.detail, trouble.error);
            given.until = trouble.next_try_at.map(Time);
        }
    }
}

fn reason(reason: Reason, detail: impl Into<String>) -> ReasonBody {
    ReasonBody {
        reason,
        detail: detail.into(),
        order_id: None,
        until: None,
    }
}

fn ended(order: &Order) -> ReasonBody {
    let detail = match order.status {
        OrderStatus::Failed => {
            "the order failed for good; POST /orders/{id}/retry gives it new attempts, POST /orders/{id}/cancel cancels it"
        }
        OrderStatus::Cancelled => "the order was cancelled; POST /orders/{id}/retry reverses that",
        OrderStatus::Completed | OrderStatus::Pending | OrderStatus::Processing => "the order is completed",
    };
    reason(Reason::Ended, detail.replace("{id}", &order.order_id.to_string()))
}

fn processing(order: &Order, lease: Option<CurrentLease>) -> ReasonBody {
    let attempt = order.attempts;
    match lease {
        Some(lease) if lease.external => ReasonBody {
            until: Some(Time(lease.expires_at)),
            ..reason(
                Reason::Processing,
                format!(
                    "an external worker has the order, attempt {attempt}; unless the worker reports, the order comes back when its lease ends"
                ),
            )
        },
        Some(lease) => ReasonBody {
            until: Some(Time(lease.expires_at)),
            ..reason(
                Reason::Processing,
                format!(
                    "node {} processes the order, attempt {attempt}, and renews its lease",
                    lease.node
                ),
            )
        },
        None => reason(Reason::Processing, format!("attempt {attempt} has started")),
    }
}

/// Lists the reasons why a Pending order waits, first those that hold whatever happens to the others.
fn waiting(explanation: &Explanation) -> Vec<ReasonBody> {
    let queue = &explanation.queue;
    let mut reasons = Vec::new();
    if queue.pause.is_some() {
        reasons.push(reason(Reason::Paused, "the queue is paused"));
    }
    reasons.extend(locked(explanation));
    reasons.extend(refused_now(explanation));
    reasons.extend(set_aside(explanation));
    reasons.extend(back_off(&explanation.order, explanation.read_at));
    reasons.extend(explanation.waits_for.map(predecessor));
    reasons.extend(nodes(queue));
    if explanation.suspect {
        reasons.push(reason(
            Reason::Suspect,
            "the order lost its leases when nodes or workers fell silent; each node runs one such order at a time",
        ));
    }
    reasons.extend(behind(explanation.place));
    if reasons.is_empty() {
        reasons.push(reason(
            Reason::Next,
            "nothing holds the order back: it starts in a moment, or as soon as ORDERLY_RATE_LIMIT allows",
        ));
    }
    if explanation.refused.is_none() {
        reasons.extend(refused_before(&explanation.order));
    }
    reasons
}

fn locked(explanation: &Explanation) -> Option<ReasonBody> {
    let holder = explanation.locked_by.as_ref()?;
    Some(reason(
        Reason::Locked,
        format!("{holder} has locked the order; it cannot change until that transaction ends"),
    ))
}

const REFUSAL_CAUSE: &str = "the cause is a trigger, a check or a missing permission in the database";

/// Names the change of the order that the database refuses at present.
fn refused_now(explanation: &Explanation) -> Option<ReasonBody> {
    let code = explanation.refused.as_ref()?;
    let detail = match explanation.order.status {
        OrderStatus::Processing => format!(
            "the database refuses to end its attempt ({code}); {REFUSAL_CAUSE}, and the order stays Processing until that is fixed"
        ),
        _ => format!(
            "the database refuses to start the order ({code}); {REFUSAL_CAUSE}; retrying every few seconds"
        ),
    };
    Some(reason(Reason::Refused, detail))
}

/// Reports the refused result of the order's last attempt. The order may start nevertheless.
fn refused_before(order: &Order) -> Option<ReasonBody> {
    if !matches!(order.status, OrderStatus::Pending | OrderStatus::Failed) {
        return None;
    }
    let error = order.last_error.as_ref()?;
    let was_refused = error.starts_with(RESULT_REFUSED);
    was_refused.then(|| reason(Reason::Refused, format!("{error}; {REFUSAL_CAUSE}")))
}

/// Names the earlier order of the same user and what has to happen to it.
fn predecessor(earlier: Predecessor) -> ReasonBody {
    let other = earlier.order_id;
    let end = match earlier.status {
        OrderStatus::Failed => format!(
            " and is Failed, so this one waits for an operator: POST /orders/{other}/retry gives it new attempts, \
             POST /orders/{other}/cancel cancels it"
        ),
        OrderStatus::Pending if earlier.set_aside => {
            format!(" and is held or scheduled; GET /orders/{other}/explain has more")
        }
        status => format!(" and is {}", status.name()),
    };
    ReasonBody {
        order_id: Some(other.0),
        ..reason(
            Reason::UserOrder,
            format!(
                "the orders of a user run one after another: order {other} of the same user comes first{end}"
            ),
        )
    }
}

/// Reports a hold, or else the time before which the order does not start.
fn set_aside(explanation: &Explanation) -> Option<ReasonBody> {
    let order = &explanation.order;
    if let Some(hold) = &order.request.hold {
        let because = hold
            .reason
            .as_ref()
            .map_or_else(String::new, |reason| format!(" ({})", reason.as_str()));
        return Some(reason(
            Reason::Held,
            format!(
                "the order is held{because}; POST /orders/{}/release releases it",
                order.order_id
            ),
        ));
    }
    let start_after = order.request.start_after.filter(|_| explanation.set_aside)?;
    Some(ReasonBody {
        until: Some(Time(start_after)),
        ..reason(
            Reason::Scheduled,
            format!(
                "the order waits for its start_after; POST /orders/{}/retry makes it due now",
                order.order_id
            ),
        )
    })
}

fn back_off(order: &Order, now: Timestamp) -> Option<ReasonBody> {
    let due_at = order.next_attempt_at.filter(|due_at| *due_at > now)?;
    Some(ReasonBody {
        until: Some(Time(due_at)),
        ..reason(
            Reason::BackOff,
            match order.attempts {
                0 => "the order was given back and waits for its time".to_owned(),
                attempt => format!(
                    "attempt {attempt} failed; the next one waits for its backoff, and POST /orders/{}/retry makes it due now",
                    order.order_id
                ),
            },
        )
    })
}

fn behind(place: Option<Place>) -> Option<ReasonBody> {
    let Place { ahead, behind, .. } = place?;
    let other = behind?;
    let more = if ahead >= AHEAD_MAX { " or more" } else { "" };
    Some(ReasonBody {
        order_id: Some(other.0),
        ..reason(
            Reason::BehindOrder,
            format!("{ahead}{more} orders come first; order {other} is directly ahead"),
        )
    })
}

/// Returns the reason why no node starts any order now, if there is one. The number of running orders is current; the
/// rest is as of the nodes' last heartbeats.
fn nodes(queue: &QueueState) -> Option<ReasonBody> {
    let alive: Vec<&Node> = queue
        .nodes
        .iter()
        .filter(|node| node.alive && node.agrees)
        .collect();
    let working: Vec<&Node> = alive.iter().copied().filter(|node| node.slots > 0).collect();
    if alive.is_empty() && queue.nodes.iter().any(|node| node.alive) {
        return Some(reason(
            Reason::NoNode,
            "the live nodes start nothing: their ORDERLY_PROCESSOR or ORDERLY_ORDERING differs from the store's",
        ));
    }
    if alive.is_empty() {
        return Some(reason(
            Reason::NoNode,
            "no node is alive, or all of them sleep; a request wakes a sleeping node",
        ));
    }
    if working.is_empty() {
        return Some(reason(
            Reason::WaitsForWorker,
            "external workers take orders from these nodes (POST /leases); none has taken this one yet",
        ));
    }
    if working.iter().all(|node| node.breaker == Breaker::Open) {
        return Some(reason(
            Reason::BreakerOpen,
            "the processor is down or cannot be reached; probing every few seconds",
        ));
    }
    if working.iter().all(|node| node.breaker != Breaker::Closed) {
        return Some(reason(
            Reason::BreakerHalfOpen,
            "the processor was down a moment ago; orders start in growing numbers",
        ));
    }
    let free = working
        .iter()
        .any(|node| node.breaker == Breaker::Closed && node.busy < node.slots);
    (!free).then(|| {
        let slots: u64 = working.iter().map(|node| u64::from(node.slots)).sum();
        reason(
            Reason::NoFreeSlot,
            format!("all {slots} slots of the live nodes are taken"),
        )
    })
}
