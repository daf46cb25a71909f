//! Why is an order waiting? What the store knows of where it stands, in words a person acts on. What keeps orders from
//! starting is the store's and the worker's; here is only what is told of it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

mod estimate;

use estimate::{EstimateBody, estimate};

use super::body;
use super::orders::{PathId, order_id, unknown_order};
use super::problem::{Problem, ProblemBody};
use super::{Shared, openapi::StatusName};
use crate::lease::RESULT_REFUSED;
use crate::order::{Order, OrderStatus};
use crate::order_json::Time;
use crate::store::{AHEAD_MAX, Breaker, CurrentLease, Node, Place, Predecessor, QueueState, Standing};
use crate::time::Timestamp;

/// Explain why an order waits
#[utoipa::path(
    get, operation_id = "explainOrder", path = "/orders/{id}/explain", tag = "orders",
    params(("id" = i64, Path, description = "The order's number")),
    responses(
        (status = 200, description = "The reasons why it does not start, most telling first, and when it may start", body = ExplanationBody),
        (status = 404, description = "No such order", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn explain(State(shared): State<Arc<Shared>>, id: PathId) -> Result<Response, Problem> {
    let standing = shared.store.standing(order_id(id)?).await?;
    let standing = standing.ok_or_else(unknown_order)?;
    body::json(StatusCode::OK, &ExplanationBody::of(&standing))
}

/// The reasons why an order waits, as of about the same moment.
#[derive(Serialize, ToSchema)]
#[schema(as = Explanation)]
pub struct ExplanationBody {
    order_id: i64,
    #[schema(value_type = StatusName)]
    status: &'static str,
    /// Never empty; the most telling first.
    reasons: Vec<ReasonBody>,
    /// Its place among the orders of its line that could start, from 1; null when it could not. Orders that come back wait
    /// in a line of their own, and the two take turns.
    #[schema(required)]
    position: Option<u64>,
    /// The position is that or higher: no more orders are counted.
    position_at_least: bool,
    /// Null when nothing tells.
    #[schema(required)]
    estimated_start: Option<EstimateBody>,
}

/// One thing that keeps an order from starting, or that became of it.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplainedReason)]
pub struct ReasonBody {
    reason: Reason,
    detail: String,
    /// The order it waits for, or behind.
    #[schema(required)]
    order_id: Option<i64>,
    /// The time when that ends, where it is known.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    until: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is Completed, Failed or Cancelled.
    Ended,
    /// It has started.
    Processing,
    /// The queue is paused.
    Paused,
    /// It failed, and waits for its next attempt.
    BackOff,
    /// Another session of the database has locked it.
    Locked,
    /// The database refuses to start it or to store the end of its attempt: a trigger, a check, a missing right.
    Refused,
    /// An order of the same user comes first.
    UserOrder,
    /// No node is alive that processes orders.
    NoNode,
    /// Workers take orders from these nodes; none has taken this one.
    WaitsForWorker,
    /// What processes orders is down, as far as every node that is alive can tell.
    BreakerOpen,
    /// It was down a moment ago, and few orders are started at a time.
    BreakerHalfOpen,
    /// Every node that is alive is busy.
    NoFreeSlot,
    /// It was lost with nodes before; a node takes one such order at a time.
    Suspect,
    /// Others come first.
    BehindOrder,
    /// Nothing that the store knows of keeps it: it starts within a second or so, or as `ORDERLY_RATE_LIMIT` allows.
    Next,
}

impl ExplanationBody {
    fn of(standing: &Standing) -> ExplanationBody {
        let order = &standing.order;
        let reasons = match order.status {
            OrderStatus::Pending => waiting(standing),
            OrderStatus::Processing => {
                let mut reasons: Vec<ReasonBody> = refused_now(standing).into_iter().collect();
                reasons.push(processing(order, standing.lease));
                reasons.extend(locked(standing));
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
            position: standing.place.map(|place| place.ahead + 1),
            position_at_least: standing.place.is_some_and(|place| place.ahead >= AHEAD_MAX),
            estimated_start: estimate(standing, &reasons),
            reasons,
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
            "it failed for good; POST /orders/{id}/retry gives it fresh attempts, POST /orders/{id}/cancel ends it"
        }
        OrderStatus::Cancelled => "it was cancelled; POST /orders/{id}/retry takes that back",
        OrderStatus::Completed | OrderStatus::Pending | OrderStatus::Processing => "it is completed",
    };
    reason(Reason::Ended, detail.replace("{id}", &order.order_id.to_string()))
}

fn processing(order: &Order, lease: Option<CurrentLease>) -> ReasonBody {
    let attempt = order.attempts;
    match lease {
        Some(lease) if lease.outside => ReasonBody {
            until: Some(Time(lease.expires_at)),
            ..reason(
                Reason::Processing,
                format!(
                    "a worker outside has it, attempt {attempt}; without a word from there it comes back when its lease ends"
                ),
            )
        },
        Some(lease) => ReasonBody {
            until: Some(Time(lease.expires_at)),
            ..reason(
                Reason::Processing,
                format!(
                    "node {} works on it, attempt {attempt}, and renews its lease",
                    lease.node
                ),
            )
        },
        None => reason(Reason::Processing, format!("attempt {attempt} has begun")),
    }
}

/// What keeps a Pending order: first what would keep it whatever came of the others.
fn waiting(standing: &Standing) -> Vec<ReasonBody> {
    let queue = &standing.queue;
    let mut reasons = Vec::new();
    if queue.paused {
        reasons.push(reason(
            Reason::Paused,
            "the queue is paused; POST /queue/resume starts it again",
        ));
    }
    reasons.extend(locked(standing));
    reasons.extend(refused_now(standing));
    reasons.extend(back_off(&standing.order, standing.read_at));
    reasons.extend(standing.waits_for.map(predecessor));
    reasons.extend(nodes(queue));
    if standing.suspect {
        reasons.push(reason(
            Reason::Suspect,
            "it was being processed when nodes or workers fell silent; each node takes one such order at a time",
        ));
    }
    reasons.extend(behind(standing.place));
    if reasons.is_empty() {
        reasons.push(reason(
            Reason::Next,
            "nothing keeps it: it is about to start, or as soon as ORDERLY_RATE_LIMIT allows",
        ));
    }
    if standing.refused.is_none() {
        reasons.extend(refused_before(&standing.order));
    }
    reasons
}

fn locked(standing: &Standing) -> Option<ReasonBody> {
    let holder = standing.locked_by.as_ref()?;
    Some(reason(
        Reason::Locked,
        format!("{holder} has locked it: nothing happens to it until that transaction ends"),
    ))
}

const REFUSAL_CAUSE: &str = "a trigger, a check or a missing right in the database is the cause";

/// The change of the order that the database refuses at present.
fn refused_now(standing: &Standing) -> Option<ReasonBody> {
    let code = standing.refused.as_ref()?;
    let detail = match standing.order.status {
        OrderStatus::Processing => format!(
            "the database refuses to end its attempt ({code}); {REFUSAL_CAUSE}, and it stays Processing until that is gone"
        ),
        _ => format!(
            "the database refuses its start ({code}); {REFUSAL_CAUSE}, and it is tried again every few seconds"
        ),
    };
    Some(reason(Reason::Refused, detail))
}

/// The result of the order's last attempt, where the database refused it. The order may start all the same.
fn refused_before(order: &Order) -> Option<ReasonBody> {
    if !matches!(order.status, OrderStatus::Pending | OrderStatus::Failed) {
        return None;
    }
    let error = order.last_error.as_ref()?;
    let was_refused = error.starts_with(RESULT_REFUSED);
    was_refused.then(|| reason(Reason::Refused, format!("{error}; {REFUSAL_CAUSE}")))
}

/// The order of the same user that comes first, and what its end takes.
fn predecessor(earlier: Predecessor) -> ReasonBody {
    let other = earlier.order_id;
    let end = match earlier.status {
        OrderStatus::Failed => format!(
            " and is Failed, so this one waits until somebody acts: POST /orders/{other}/retry gives it fresh attempts, \
             POST /orders/{other}/cancel ends it"
        ),
        status => format!(" and is {}", status.name()),
    };
    ReasonBody {
        order_id: Some(other.0),
        ..reason(
            Reason::UserOrder,
            format!(
                "the orders of a user are processed one after another: order {other} of the same user comes first{end}"
            ),
        )
    }
}

fn back_off(order: &Order, now: Timestamp) -> Option<ReasonBody> {
    let due_at = order.next_attempt_at.filter(|due_at| *due_at > now)?;
    Some(ReasonBody {
        until: Some(Time(due_at)),
        ..reason(
            Reason::BackOff,
            match order.attempts {
                0 => "it was given back, and waits for its time".to_owned(),
                attempt => format!("attempt {attempt} failed; the next one waits for its time"),
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
            format!("{ahead}{more} orders come first; order {other} is the one right before it"),
        )
    })
}

/// Reason why no node starts any order now, if there is one. The number of orders a node processes is current; the rest
/// is as of the nodes' last heartbeats.
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
            "the nodes that are alive start nothing: each has another ORDERLY_PROCESSOR or ORDERLY_ORDERING than the store",
        ));
    }
    if alive.is_empty() {
        return Some(reason(
            Reason::NoNode,
            "no node is alive, or all of them sleep; one that is asked for something wakes up",
        ));
    }
    if working.is_empty() {
        return Some(reason(
            Reason::WaitsForWorker,
            "workers take the orders from these nodes (POST /leases), and none has taken this one yet",
        ));
    }
    if working.iter().all(|node| node.breaker == Breaker::Open) {
        return Some(reason(
            Reason::BreakerOpen,
            "what processes the orders cannot be reached or does not work; it is tried every few seconds",
        ));
    }
    if working.iter().all(|node| node.breaker != Breaker::Closed) {
        return Some(reason(
            Reason::BreakerHalfOpen,
            "what processes the orders was down a moment ago: it is asked for more and more again",
        ));
    }
    let free = working
        .iter()
        .any(|node| node.breaker == Breaker::Closed && node.busy < node.slots);
    (!free).then(|| {
        let slots: u64 = working.iter().map(|node| u64::from(node.slots)).sum();
        reason(
            Reason::NoFreeSlot,
            format!("all {slots} slots of the nodes that are alive are taken"),
        )
    })
}
