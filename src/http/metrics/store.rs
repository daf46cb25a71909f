//! The metrics of what the store holds: orders, the queue, and the judgement of them.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::diagnosis::{Finding, Known, Monitor, Rule};
use crate::order::OrderStatus;
use crate::store::{HandoutMode, HandoutStatus, QueueState};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    rule: &'static str,
}

/// Built for every scrape from the last known state of the store, and the judgement of it.
pub(super) fn registry(known: Option<&Known>, monitor: &Monitor) -> Registry {
    let mut registry = of_queue(known.map(|known| &known.vitals.queue));
    let up = Gauge::<i64>::default();
    up.set(i64::from(known.is_some_and(|known| known.is_fresh)));
    registry.register("store_up", "1 if the store could be read for this scrape", up);
    let Some(known) = known else {
        return registry;
    };
    let vitals = &known.vitals;
    let seconds = |registry: &mut Registry, name: &'static str, help: &'static str, span: Duration| {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(span.as_secs_f64());
        registry.register_with_unit(name, help, Unit::Seconds, gauge);
    };
    seconds(
        &mut registry,
        "store_numbers_age",
        "Age of the numbers of the store in this scrape, 0 if they were read for it",
        known.age,
    );
    let running = vitals.oldest_running.as_ref();
    seconds(
        &mut registry,
        "oldest_processing",
        "Longest time that an order has been in processing, 0 if none is",
        running.map_or(Duration::ZERO, |running| running.age),
    );
    let transactions = vitals.transactions.iter();
    seconds(
        &mut registry,
        "oldest_transaction",
        "Age of the oldest transaction of the database above one minute, 0 if there is none",
        transactions
            .filter_map(|transaction| transaction.session.open_for)
            .max()
            .unwrap_or_default(),
    );
    registry.register(
        "finding",
        "1 for each rule of suspicion that fires, see docs/OPERATIONS.md",
        findings(&monitor.diagnose(known)),
    );
    registry
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModeLabels {
    mode: &'static str,
}

/// The metrics of Redis, with Redis only.
fn of_handout(handout: &HandoutStatus, registry: &mut Registry) {
    let modes = Family::<ModeLabels, Gauge>::default();
    for mode in HandoutMode::ALL {
        let labels = ModeLabels { mode: mode.name() };
        modes.get_or_create(&labels).set(i64::from(handout.mode == mode));
    }
    registry.register(
        "redis_mode",
        "1 for the way in which this node gets orders: from the stream, from the store while it catches up, or from the store",
        modes,
    );
    let numbers = [
        ("redis_stream_orders", "Orders in the stream", handout.depth),
        (
            "redis_stream_lag",
            "Orders in the stream that no node took yet",
            handout.lag,
        ),
        (
            "redis_stream_abandoned",
            "Orders that silent nodes took and did not start",
            handout.abandoned,
        ),
    ];
    for (name, help, number) in numbers {
        if let Some(number) = number {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
    }
}

fn findings(found: &[Finding]) -> Family<RuleLabels, Gauge> {
    let family = Family::<RuleLabels, Gauge>::default();
    for &rule in Rule::ALL {
        let fires = found.iter().any(|finding| finding.rule == rule);
        let labels = RuleLabels { rule: rule.name() };
        family.get_or_create(&labels).set(i64::from(fires));
    }
    family
}

/// The metrics of orders and of the queue; without a state, of the program alone.
pub(super) fn of_queue(state: Option<&QueueState>) -> Registry {
    let mut registry = Registry::with_prefix("orderly");
    let build = Family::<BuildLabels, Gauge>::default();
    let labels = BuildLabels {
        version: env!("CARGO_PKG_VERSION"),
    };
    build.get_or_create(&labels).set(1);
    registry.register("build_info", "Version of the running program", build);
    let Some(state) = state else {
        return registry;
    };

    let orders = Family::<StatusLabels, Gauge>::default();
    for status in OrderStatus::ALL {
        let labels = StatusLabels {
            status: status.name(),
        };
        let count = i64::try_from(state.counters.of(status)).unwrap_or(i64::MAX);
        orders.get_or_create(&labels).set(count);
    }
    registry.register("orders", "Orders in the store", orders);
    let oldest = Gauge::<f64, AtomicU64>::default();
    oldest.set(state.oldest_waiting.unwrap_or_default().as_secs_f64());
    registry.register_with_unit(
        "oldest_waiting",
        "Longest wait of an order that could have started, 0 if none waits",
        Unit::Seconds,
        oldest,
    );
    let blocked = Gauge::<i64>::default();
    blocked.set(i64::try_from(state.blocked.orders).unwrap_or(i64::MAX));
    registry.register(
        "blocked_orders",
        "Pending orders that wait for an earlier order of their user, counted up to 10,000",
        blocked,
    );
    for (name, help, orders) in [
        ("held_orders", "Pending orders that are held", state.counters.held),
        (
            "scheduled_orders",
            "Other Pending orders that wait for their start_after",
            state.counters.scheduled,
        ),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(orders).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let oldest = Gauge::<f64, AtomicU64>::default();
    oldest.set(state.blocked.oldest_age.unwrap_or_default().as_secs_f64());
    registry.register_with_unit(
        "oldest_blocked",
        "Longest wait of a blocked order, 0 if there is none",
        Unit::Seconds,
        oldest,
    );
    let paused = Gauge::<i64>::default();
    paused.set(i64::from(state.pause.is_some()));
    registry.register("queue_paused", "1 if the queue is paused", paused);
    if let Some(handout) = &state.handout {
        of_handout(handout, &mut registry);
    }
    registry
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn a_scrape_without_the_store_shows_the_program_only() {
        let mut text = String::new();
        text::encode_registry(&mut text, &of_queue(None)).unwrap();
        assert!(text.contains("orderly_build_info"));
        assert!(!text.contains("orderly_orders"));
    }
}
