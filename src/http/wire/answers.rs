//! Renders batches and lists of orders, and the queue with its nodes.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::lease::ProcessorKind;
use crate::order_json::{OrderBody, Time};
use crate::store::{Breaker, HandoutStatus, Node, QueueState, Redriven};
use crate::worker::ServiceTrouble;

/// The orders of a batch, in the order given.
#[derive(ToSchema)]
#[schema(as = Orders)]
pub struct OrdersBody<'a> {
    pub orders: Vec<OrderBody<'a>>,
}

impl OrdersBody<'_> {
    pub fn text(&self) -> Result<Vec<u8>, serde_json::Error> {
        /// Besides the orders, each with its comma.
        const AROUND: usize = 16;
        let bytes: usize = self.orders.iter().map(|order| order.bytes_about() + 1).sum();
        let mut text = Vec::with_capacity(AROUND + bytes);
        text.extend_from_slice(b"{\"orders\":[");
        for (index, order) in self.orders.iter().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            order.write(&mut text)?;
        }
        text.extend_from_slice(b"]}");
        Ok(text)
    }
}

/// Orders, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = OrderPage)]
pub struct PageBody {
    /// Rendered one by one, since a page ends before it becomes too long.
    #[schema(value_type = Vec<OrderBody<'static>>)]
    pub orders: Vec<Box<RawValue>>,
    /// Pass as `cursor` for the next page, which may exist even after a short or empty one; null at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Result of a mass retry.
#[derive(Serialize, ToSchema)]
#[schema(as = Redriven)]
pub struct RedrivenBody {
    matched: usize,
    retried: usize,
    /// True when more orders match than one call takes.
    more: bool,
}

impl From<Redriven> for RedrivenBody {
    fn from(redriven: Redriven) -> RedrivenBody {
        RedrivenBody {
            matched: redriven.matched,
            retried: redriven.retried,
            more: redriven.more,
        }
    }
}

/// The queue and its nodes.
#[derive(Serialize, ToSchema)]
#[schema(as = Queue)]
pub struct QueueBody {
    pending: u64,
    processing: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
    /// Longest wait of an order that could have started; null if none waits.
    #[schema(required)]
    oldest_waiting_seconds: Option<f64>,
    /// Pending orders that wait for an earlier order of their user; at most 10,000 are counted.
    blocked: u64,
    /// Longest wait of a blocked order; null if there is none.
    #[schema(required)]
    oldest_blocked_seconds: Option<f64>,
    /// Pending orders that are held.
    held: u64,
    /// Other Pending orders that wait for their `start_after`.
    scheduled: u64,
    paused: bool,
    /// Null if the queue is not paused.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    paused_at: Option<Time>,
    /// The reason given for the pause; null without one.
    #[schema(required)]
    pause_reason: Option<String>,
    nodes: Vec<NodeBody>,
    /// The hand-out of orders by Redis; null without Redis.
    #[schema(required)]
    redis: Option<HandoutBody>,
    /// Last bad answer of the service to the node that answers this request, while its breaker is not closed; otherwise null.
    #[schema(required)]
    service_trouble: Option<ServiceTroubleBody>,
}

/// The hand-out of orders by Redis, as the node that answers sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Handout)]
pub struct HandoutBody {
    /// `stream`: nodes take orders from Redis. `catching_up`: claims from the database go first until they have caught up with what
    /// Redis lacks. `news`: with `ORDERLY_ORDERING=user` nodes claim from the database, and Redis carries messages. `store`: Redis
    /// cannot be used, and nodes claim from the database.
    mode: &'static str,
    /// The reason for which Redis cannot be used; null while it can.
    #[schema(required)]
    trouble: Option<String>,
    /// Orders in the stream; null if Redis does not tell, as with the following.
    #[schema(required)]
    depth: Option<u64>,
    /// Orders in the stream that no node took yet.
    #[schema(required)]
    lag: Option<u64>,
    /// Orders that silent nodes took and did not start; other nodes take them over.
    #[schema(required)]
    abandoned: Option<u64>,
}

impl From<&HandoutStatus> for HandoutBody {
    fn from(status: &HandoutStatus) -> HandoutBody {
        HandoutBody {
            mode: status.mode.name(),
            trouble: status.trouble.clone(),
            depth: status.depth,
            lag: status.lag,
            abandoned: status.abandoned,
        }
    }
}

/// The last bad answer of the service to a node whose breaker is not closed.
#[derive(Serialize, ToSchema)]
#[schema(as = ServiceTrouble)]
pub struct ServiceTroubleBody {
    /// The service's answer, or the reason why there was none.
    error: String,
    #[schema(required)]
    status: Option<u16>,
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    /// The time before which the node sends the service nothing.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    next_try_at: Option<Time>,
}

impl From<ServiceTrouble> for ServiceTroubleBody {
    fn from(trouble: ServiceTrouble) -> ServiceTroubleBody {
        ServiceTroubleBody {
            error: trouble.error,
            status: trouble.status,
            at: Time(trouble.at),
            next_try_at: trouble.next_try_at.map(Time),
        }
    }
}

impl QueueBody {
    pub fn of(state: &QueueState, trouble: Option<ServiceTrouble>) -> QueueBody {
        QueueBody {
            pending: state.counters.pending,
            processing: state.counters.processing,
            completed: state.counters.completed,
            failed: state.counters.failed,
            cancelled: state.counters.cancelled,
            oldest_waiting_seconds: state.oldest_waiting.map(|age| age.as_secs_f64()),
            blocked: state.blocked.orders,
            oldest_blocked_seconds: state.blocked.oldest_age.map(|age| age.as_secs_f64()),
            held: state.counters.held,
            scheduled: state.counters.scheduled,
            paused: state.pause.is_some(),
            paused_at: state.pause.as_ref().map(|pause| Time(pause.at)),
            pause_reason: state
                .pause
                .as_ref()
                .and_then(|pause| Some(pause.reason.as_ref()?.as_str().to_owned())),
            nodes: state.nodes.iter().map(NodeBody::from).collect(),
            redis: state.handout.as_ref().map(HandoutBody::from),
            service_trouble: trouble.map(ServiceTroubleBody::from),
        }
    }
}

/// A running server.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeBody {
    node: String,
    /// `ORDERLY_NODE_NAME`, by default the machine's name and the port.
    name: String,
    /// Version of its program.
    version: String,
    /// Maximum number of orders it processes at once.
    slots: u32,
    busy: u32,
    #[schema(value_type = String, format = DateTime)]
    started_at: Time,
    #[schema(value_type = String, format = DateTime)]
    heartbeat_at: Time,
    alive: bool,
    breaker: BreakerName,
    /// Processor of its orders: `simulated`, `http`, `pull`, or `own` if it is part of the program. Null if an older
    /// node did not report it.
    #[schema(required)]
    processor: Option<&'static str>,
    /// False while its processor or ordering differs from that of the other live nodes: it starts no order until they
    /// are gone.
    starts_orders: bool,
    /// Its latest start of an order; null if it has started none.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_start_at: Option<Time>,
    /// Seconds by which its clock was ahead of the database's at its last heartbeat, negative if it was behind; null on
    /// SQLite.
    #[schema(required)]
    clock_ahead_seconds: Option<f64>,
}

/// State of a node's breaker: `closed` claims orders, `open` claims none while the processor is down, `half_open` tries
/// a few orders to find out whether it has recovered.
#[derive(Serialize, ToSchema)]
#[schema(as = Breaker)]
#[serde(rename_all = "snake_case")]
enum BreakerName {
    Closed,
    Open,
    HalfOpen,
}

impl From<Breaker> for BreakerName {
    fn from(breaker: Breaker) -> BreakerName {
        match breaker {
            Breaker::Closed => BreakerName::Closed,
            Breaker::Open => BreakerName::Open,
            Breaker::HalfOpen => BreakerName::HalfOpen,
        }
    }
}

fn seconds(micros: i64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "clocks that differ by centuries need no microseconds"
    )]
    let micros = micros as f64;
    micros / 1e6
}

impl From<&Node> for NodeBody {
    fn from(node: &Node) -> NodeBody {
        NodeBody {
            node: node.node.to_string(),
            name: node.name.clone(),
            version: node.version.clone(),
            slots: node.slots,
            busy: node.busy,
            started_at: Time(node.started_at),
            heartbeat_at: Time(node.heartbeat_at),
            alive: node.alive,
            breaker: node.breaker.into(),
            processor: node.processor.map(ProcessorKind::name),
            starts_orders: node.agrees,
            last_start_at: node.last_start_at.map(Time),
            clock_ahead_seconds: node.clock_ahead_micros.map(seconds),
        }
    }
}
