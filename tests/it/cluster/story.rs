//! The long cluster test: three nodes under load while nodes are killed and frozen repeatedly; afterwards all promises
//! are checked from outside.

use std::time::Duration;

use orderly::event::EventKind;
use orderly::order::OrderStatus;
use tokio::time::timeout;

use super::faults::{FREEZES, Faults};
use super::nodes::{Cluster, Node, Settings};
use super::oracle::Evidence;
use super::shop::{Assortment, Doors, Shop};
use super::zombie::{Fencing, haunt};
use crate::crash::load::seed;
use crate::support::until;

const CLIENTS: u64 = 16;
const ORDERS: Assortment = Assortment {
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
const DAY_MAX: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_or_ends_twice_while_nodes_die_and_freeze() {
    let Some(cluster) = Cluster::new(SETTINGS).await else {
        return;
    };
    let day = timeout(DAY_MAX, live_through(&cluster)).await;
    let evidence = day.expect("the run ends in time");
    let breaches = evidence.breaches();
    assert!(breaches.is_empty(), "{breaches:#?}");
    let (exit, report) = cluster.verify().await;
    assert_eq!(exit, Some(0), "{report}");
}

async fn live_through(cluster: &Cluster) -> Evidence {
    let seed = seed();
    let haunted = haunt(cluster, Fencing::AsShipped, seed).await;
    let mut nodes = haunted.nodes;
    until("stale results are counted", async || {
        nodes[0].stale_results().await > 0
    })
    .await;

    let doors = Doors::default();
    for node in &nodes {
        doors.open(node.url());
    }
    let shop = Shop::new(&doors, ORDERS, seed);
    let faults = Faults {
        cluster,
        doors: &doors,
        shop: &shop,
        orders_per_freeze: ORDERS.orders / FREEZES,
    };
    let (mut silences, ()) = tokio::join!(faults.happen(&mut nodes, seed), shop.run(CLIENTS));
    until("all orders have ended", async || {
        nodes[0].open_orders().await == 0
    })
    .await;

    silences.push(haunted.silence);
    let mut sales = haunted.sales;
    sales.extend(shop.sales());
    let evidence = Evidence {
        sales,
        silences,
        records: cluster.records().await,
    };
    tell(&evidence, &nodes).await;
    assert_numbers_agree(&evidence, &nodes).await;
    evidence
}

async fn tell(evidence: &Evidence, nodes: &[Node]) {
    let mut stale = 0;
    for node in nodes {
        stale += node.stale_results().await;
    }
    println!(
        "{FREEZES} freezes, {} orders, {} starts, {} leases lost, {stale} stale results counted by the last nodes, \
         longest takeover {:?}",
        evidence.sales.len(),
        evidence.count(EventKind::Started),
        evidence.count(EventKind::LeaseLost),
        evidence.longest_takeover(),
    );
}

/// Asserts that every node reports the counts of the table.
async fn assert_numbers_agree(evidence: &Evidence, nodes: &[Node]) {
    let counted = |status| {
        let orders = evidence.records.iter().map(|record| record.order.status);
        orders.filter(|found| *found == status).count()
    };
    let average = nodes[0].get("/metrics").await["average_processing_time_seconds"].clone();
    for node in nodes {
        let numbers = node.get("/metrics").await;
        assert_eq!(numbers["total_orders"], evidence.records.len(), "{numbers}");
        assert_eq!(numbers["average_processing_time_seconds"], average, "{numbers}");
        for (name, status) in [
            ("pending_orders", OrderStatus::Pending),
            ("processing_orders", OrderStatus::Processing),
            ("completed_orders", OrderStatus::Completed),
            ("failed_orders", OrderStatus::Failed),
            ("cancelled_orders", OrderStatus::Cancelled),
        ] {
            assert_eq!(numbers[name], counted(status), "{name} of {numbers}");
        }
    }
}
