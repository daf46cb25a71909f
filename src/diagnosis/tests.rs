//! Each rule finds its fault, and a healthy store has none.

use super::*;
use crate::lease::{NodeId, ProcessorKind};
use crate::order::{OrderId, OrderStatus};
use crate::store::vitals::{Blocking, FailureGroup, LongTransaction, Running, Unanswered};
use crate::store::{Activity, Blocked, Breaker, Counters, LockHolder, Node, Pause, QueueState};
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);

pub(super) fn ago(seconds: u64) -> Timestamp {
    NOW.minus(Duration::from_secs(seconds))
}

fn node(number: u64) -> Node {
    Node {
        node: NodeId(number),
        slots: 10,
        busy: 3,
        started_at: ago(3_600),
        heartbeat_at: ago(1),
        alive: true,
        breaker: Breaker::Closed,
        processor: Some(ProcessorKind::Http),
        agrees: true,
        name: format!("shop-{number}"),
        version: "1.0.0".to_owned(),
        clock_ahead_micros: Some(1_000),
        last_start_at: Some(ago(1)),
    }
}

/// A busy store with two nodes: orders wait for a moment, some fail, and orders take about 2 s.
pub(super) fn healthy() -> Vitals {
    Vitals {
        read_at: NOW,
        queue: QueueState {
            counters: Counters {
                pending: 4,
                processing: 6,
                completed: 1_000,
                processing_micros: 2_000_000_000,
                failed: 2,
                ..Counters::default()
            },
            pause: None,
            oldest_waiting: Some(Duration::from_secs(1)),
            blocked: Blocked::default(),
            nodes: vec![node(1), node(2)],
            handout: None,
        },
        activity: Activity {
            accepted: 500,
            started: 498,
            completed: 480,
            retried: 20,
            failed: 2,
            leases_lost: 0,
            ..Activity::default()
        },
        oldest_running: Some(Running {
            order_id: OrderId(41),
            node: NodeId(1),
            age: Duration::from_secs(4),
            outside: false,
        }),
        running_outside: 0,
        failures: vec![FailureGroup {
            error: "the service answered 422: item 13 is not for sale".to_owned(),
            orders: 2,
            order_id: OrderId(7),
            failed_at: ago(60),
        }],
        blocking: Vec::new(),
        suspects: Vec::new(),
        unanswered: Vec::new(),
        transactions: Vec::new(),
        full_slots: Vec::new(),
        locked_orders: Vec::new(),
    }
}

/// Orders have waited for a minute and a half, and nothing has started for as long.
fn standing() -> Vitals {
    let mut vitals = healthy();
    vitals.queue.oldest_waiting = Some(Duration::from_secs(90));
    for node in &mut vitals.queue.nodes {
        node.last_start_at = Some(ago(91));
    }
    vitals
}

fn session(open_for: u64) -> LockHolder {
    LockHolder {
        pid: 24_395,
        user: Some("postgres".to_owned()),
        application: Some("dbeaver".to_owned()),
        open_for: Some(Duration::from_secs(open_for)),
    }
}

pub(super) fn rules(vitals: &Vitals) -> Vec<&'static str> {
    let found = diagnose(vitals, &Settings::default());
    found.iter().map(|finding| finding.rule.name()).collect()
}

pub(super) fn first(vitals: &Vitals) -> Finding {
    diagnose(vitals, &Settings::default()).remove(0)
}

#[test]
fn a_healthy_store_has_no_findings() {
    assert_eq!(rules(&healthy()), [""; 0]);
    let mut idle = healthy();
    idle.queue.counters.pending = 0;
    idle.queue.counters.processing = 0;
    idle.queue.oldest_waiting = None;
    idle.oldest_running = None;
    idle.activity = Activity::default();
    assert_eq!(rules(&idle), [""; 0]);
    // A node without orders whose database sleeps is on no list.
    idle.queue.nodes.clear();
    assert_eq!(rules(&idle), [""; 0]);
}

#[test]
fn a_paused_queue_is_named_with_the_way_to_resume_it() {
    let mut vitals = standing();
    vitals.queue.pause = Some(Pause {
        at: vitals.read_at.minus(Duration::from_mins(3)),
        reason: None,
    });
    assert_eq!(rules(&vitals), ["paused"]);
    assert!(first(&vitals).action.contains("orderly resume"));
}

#[test]
fn open_orders_without_a_live_node_are_named() {
    let mut vitals = standing();
    for node in &mut vitals.queue.nodes {
        node.alive = false;
    }
    assert_eq!(rules(&vitals), ["no-node"]);
}

#[test]
fn a_node_with_other_settings_is_named() {
    let mut vitals = healthy();
    vitals.queue.nodes[1].agrees = false;
    vitals.queue.nodes[1].processor = Some(ProcessorKind::Simulated);
    assert_eq!(rules(&vitals), ["node-differs"]);
    let what = first(&vitals).what;
    assert!(what.contains("shop-2 (ORDERLY_PROCESSOR=simulated)"), "{what}");
}

#[test]
fn a_service_that_is_down_is_the_cause_of_the_standstill() {
    let mut vitals = standing();
    vitals.queue.nodes[0].breaker = Breaker::Open;
    assert_eq!(first(&vitals).severity, Severity::Warn);
    vitals.queue.nodes[1].breaker = Breaker::Open;
    assert_eq!(rules(&vitals), ["service-down"]);
    assert_eq!(first(&vitals).severity, Severity::Fail);
}

#[test]
fn a_session_that_holds_locks_is_the_cause_of_the_standstill() {
    let mut vitals = standing();
    vitals.transactions = vec![LongTransaction {
        session: session(65),
        idle: true,
        blocks: 2,
    }];
    assert_eq!(rules(&vitals), ["locked"]);
    let found = first(&vitals);
    assert!(
        found.what.contains("dbeaver") && found.what.contains("idle in transaction"),
        "{}",
        found.what
    );
    assert!(
        found.action.contains("pg_terminate_backend(24395)"),
        "{}",
        found.action
    );
}

#[test]
fn workers_that_do_not_ask_are_the_cause_of_the_standstill() {
    let mut vitals = standing();
    for node in &mut vitals.queue.nodes {
        node.processor = Some(ProcessorKind::Pull);
        node.slots = 0;
        node.busy = 0;
    }
    assert_eq!(rules(&vitals), ["no-worker"]);
}

#[test]
fn slots_that_are_all_taken_are_the_cause_of_the_standstill() {
    let mut vitals = standing();
    for node in &mut vitals.queue.nodes {
        node.busy = 10;
    }
    vitals.oldest_running.as_mut().unwrap().age = Duration::from_secs(95);
    assert_eq!(rules(&vitals), ["slots-full"]);
    assert!(first(&vitals).because.unwrap().contains("order 41"));
}

#[test]
fn a_standstill_with_free_slots_is_named() {
    assert_eq!(rules(&standing()), ["standstill"]);
    let slow = Settings {
        rate_limit: Some(0.1),
        ..Settings::default()
    };
    let found = diagnose(&standing(), &slow).remove(0);
    assert!(found.because.unwrap().contains("ORDERLY_RATE_LIMIT"));
}

#[test]
fn a_queue_that_grows_is_named_with_what_limits_it() {
    let mut vitals = healthy();
    vitals.queue.oldest_waiting = Some(Duration::from_secs(70));
    assert_eq!(rules(&vitals), ["behind"]);
    let limited = Settings {
        rate_limit: Some(1.5),
        ..Settings::default()
    };
    let found = diagnose(&vitals, &limited).remove(0);
    assert!(found.because.unwrap().contains("ORDERLY_RATE_LIMIT allows 1.5"));
}

#[test]
fn many_failed_orders_are_named_with_their_commonest_reason() {
    let mut vitals = healthy();
    vitals.activity.failed = 40;
    assert_eq!(rules(&vitals), ["many-failed"]);
    assert!(
        first(&vitals)
            .because
            .unwrap()
            .contains("item 13 is not for sale")
    );
    vitals.failures[0].error = "the service answered 401: wrong signature".to_owned();
    assert!(first(&vitals).action.contains("ORDERLY_PROCESSOR_SECRET"));
}

#[test]
fn a_session_that_has_locked_the_next_order_is_named() {
    let mut vitals = standing();
    vitals.locked_orders = vec![(OrderId(7), session(40))];
    assert_eq!(rules(&vitals), ["locked"]);
    let found = first(&vitals);
    assert!(
        found.what.contains("order 7") && found.action.contains("pg_terminate_backend(24395)"),
        "{found:?}"
    );
}

#[test]
fn an_order_in_processing_for_long_is_named() {
    let mut vitals = healthy();
    vitals.oldest_running.as_mut().unwrap().age = Duration::from_secs(31);
    assert_eq!(rules(&vitals), ["slow-order"]);
    assert!(first(&vitals).what.contains("shop-1"));
    vitals.oldest_running.as_mut().unwrap().outside = true;
    assert_eq!(rules(&vitals), ["no-report"]);
    // Orders of this store usually take a minute.
    vitals.queue.counters.processing_micros = 60_000_000_000;
    assert_eq!(rules(&vitals), [""; 0]);
}

#[test]
fn suspects_are_named() {
    let mut vitals = healthy();
    vitals.suspects = vec![OrderId(66)];
    vitals.activity.leases_lost = 12;
    assert_eq!(rules(&vitals), ["leases-lost"]);
    assert!(first(&vitals).what.contains("order 66"));
}

#[test]
fn the_order_that_blocks_a_user_is_named() {
    let mut vitals = healthy();
    vitals.queue.blocked.orders = 48;
    vitals.queue.blocked.oldest_age = Some(Duration::from_secs(100));
    let blocking = |status, backing_off| Blocking {
        order_id: OrderId(48),
        status,
        backing_off,
        set_aside: false,
        orders: 48,
    };
    // The order before runs, or is about to start: the others wait their turn.
    for status in [OrderStatus::Processing, OrderStatus::Pending] {
        vitals.blocking = vec![blocking(status, false)];
        assert_eq!(rules(&vitals), [""; 0]);
    }
    for (status, backing_off) in [(OrderStatus::Failed, false), (OrderStatus::Pending, true)] {
        vitals.blocking = vec![blocking(status, backing_off)];
        assert_eq!(rules(&vitals), ["user-blocked"]);
        assert!(first(&vitals).action.contains("orderly orders cancel 48"));
    }
}

#[test]
fn a_clock_that_is_off_is_named() {
    for (micros, direction) in [(600_000_000, "10m ahead of"), (-3_000_000, "3s behind")] {
        let mut vitals = healthy();
        vitals.queue.nodes[0].clock_ahead_micros = Some(micros);
        assert_eq!(rules(&vitals), ["clock-off"]);
        let what = first(&vitals).what;
        assert!(what.contains(direction), "{what}");
    }
}

#[test]
fn different_versions_are_named_once_the_upgrade_should_be_over() {
    let mut vitals = healthy();
    vitals.queue.nodes[1].version = "1.1.0".to_owned();
    assert_eq!(rules(&vitals), ["versions-differ"]);
    vitals.queue.nodes[1].started_at = ago(60);
    assert_eq!(rules(&vitals), [""; 0]);
}

#[test]
fn a_transaction_that_blocks_nobody_is_named_after_some_minutes() {
    let mut vitals = healthy();
    let open = |seconds| LongTransaction {
        session: session(seconds),
        idle: true,
        blocks: 0,
    };
    vitals.transactions = vec![open(299)];
    assert_eq!(rules(&vitals), [""; 0]);
    vitals.transactions = vec![open(300)];
    assert_eq!(rules(&vitals), ["long-transaction"]);
}

#[test]
fn a_replication_slot_without_a_client_is_named() {
    let mut vitals = healthy();
    vitals.full_slots = vec!["standby_2".to_owned()];
    assert_eq!(rules(&vitals), ["slot-without-client"]);
}

#[test]
fn failures_come_before_warnings() {
    let mut vitals = standing();
    vitals.queue.nodes[1].alive = false;
    vitals.queue.pause = Some(Pause {
        at: vitals.read_at.minus(Duration::from_mins(3)),
        reason: None,
    });
    assert_eq!(rules(&vitals), ["paused", "node-silent"]);
}

#[test]
fn workers_that_are_refused_are_named() {
    let mut vitals = standing();
    for node in &mut vitals.queue.nodes {
        node.processor = Some(ProcessorKind::Pull);
        node.slots = 0;
    }
    vitals.activity.leases_refused = 68;
    assert_eq!(rules(&vitals), ["no-worker"]);
    let cause = first(&vitals).because.unwrap();
    assert!(
        cause.contains("68 requests") && cause.contains("wrong key"),
        "{cause}"
    );
}

#[test]
fn an_order_at_which_the_service_breaks_off_again_and_again_is_named() {
    let mut vitals = healthy();
    vitals.unanswered = vec![Unanswered {
        order_id: OrderId(48),
        attempts: 4,
    }];
    assert_eq!(rules(&vitals), ["no-answer"]);
    assert!(first(&vitals).what.contains("48 (4 attempts)"));
}

#[test]
fn workers_that_are_only_busy_are_not_missing() {
    let mut vitals = standing();
    for node in &mut vitals.queue.nodes {
        node.processor = Some(ProcessorKind::Pull);
        node.slots = 0;
    }
    vitals.running_outside = 4;
    assert_eq!(rules(&vitals), ["behind"]);
    assert!(first(&vitals).because.unwrap().contains("4 orders"));
}
