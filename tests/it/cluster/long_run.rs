//! The long cluster test: three nodes under load while nodes are killed and frozen repeatedly; afterwards all promises
//! are checked from outside.

use std::time::Duration;

use orderly::event::EventKind;
use orderly::order::OrderStatus;
use tokio::time::timeout;

use super::faults::{FREEZES, Faults};
use super::load::{LoadSource, Urls, Workload};
use super::nodes::{Cluster, Node, Settings};
use super::oracle::Evidence;
use super::zombie::{Fencing, run_zombie};
use crate::crash::load::seed;
use crate::support::until;

const CLIENTS: u64 = 16;
const ORDERS: Workload = Workload {
    name: "order",
    orders: 3_000,
    long_share: 0.04,
    cancelled_share: 0.03,
};
/// Some attempts fail, and some orders fail permanently.
const SETTINGS: Settings = &[
    ("ORDERLY_CONCURRENCY", "20"),
    ("ORDERLY_SIMULATED_FAILURE_RATE", "0.2"),
    ("ORDERLY_MAX_ATTEMPTS", "3"),
    ("ORDERLY_RETRY_BASE", "20ms"),
];
/// A run that takes longer hangs.
const RUN_TIME_MAX: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_or_ends_twice_while_nodes_die_and_freeze() {
    let Some(cluster) = Cluster::new(SETTINGS).await else {
        return;
    };
    let run = timeout(RUN_TIME_MAX, run_with_faults(&cluster)).await;
    let evidence = run.expect("the run ends in time");
    let breaches = evidence.breaches();
    assert!(breaches.is_empty(), "{breaches:#?}");
    let (exit, report) = cluster.verify().await;
    assert_eq!(exit, Some(0), "{report}");
}

async fn run_with_faults(cluster: &Cluster) -> Evidence {
    let seed = seed();
    let zombie_run = run_zombie(cluster, Fencing::AsShipped, seed).await;
    let mut nodes = zombie_run.nodes;
    until("stale results are counted", async || {
        nodes[0].stale_results().await > 0
    })
    .await;

    let urls = Urls::default();
    for node in &nodes {
        urls.open(node.url());
    }
    let source = LoadSource::new(&urls, ORDERS, seed);
    let faults = Faults {
        cluster,
        urls: &urls,
        source: &source,
        orders_per_freeze: ORDERS.orders / FREEZES,
    };
    let (mut silences, ()) = tokio::join!(faults.run(&mut nodes, seed), source.run(CLIENTS));
    until("all orders have ended", async || {
        nodes[0].open_orders().await == 0
    })
    .await;

    silences.push(zombie_run.silence);
    let mut accepted_orders = zombie_run.accepted_orders;
    accepted_orders.extend(source.accepted_orders());
    let evidence = Evidence {
        accepted_orders,
        silences,
        records: cluster.records().await,
    };
    print_summary(&evidence, &nodes).await;
    assert_metrics_agree(&evidence, &nodes).await;
    evidence
}

async fn print_summary(evidence: &Evidence, nodes: &[Node]) {
    let mut stale = 0;
    for node in nodes {
        stale += node.stale_results().await;
    }
    println!(
        "{FREEZES} freezes, {} orders, {} starts, {} leases lost, {stale} stale results counted by the last nodes, \
         longest takeover {:?}",
        evidence.accepted_orders.len(),
        evidence.count(EventKind::Started),
        evidence.count(EventKind::LeaseLost),
        evidence.longest_takeover(),
    );
}

/// Asserts that every node reports the counts of the table.
async fn assert_metrics_agree(evidence: &Evidence, nodes: &[Node]) {
    let counted = |status| {
        let orders = evidence.records.iter().map(|record| record.order.status);
        orders.filter(|found| *found == status).count()
    };
    let average = nodes[0].get("/metrics").await["average_processing_time_seconds"].clone();
    for node in nodes {
        let metrics = node.get("/metrics").await;
        assert_eq!(metrics["total_orders"], evidence.records.len(), "{metrics}");
        assert_eq!(metrics["average_processing_time_seconds"], average, "{metrics}");
        for (name, status) in [
            ("pending_orders", OrderStatus::Pending),
            ("processing_orders", OrderStatus::Processing),
            ("completed_orders", OrderStatus::Completed),
            ("failed_orders", OrderStatus::Failed),
            ("cancelled_orders", OrderStatus::Cancelled),
        ] {
            assert_eq!(metrics[name], counted(status), "{name} of {metrics}");
        }
    }
}
