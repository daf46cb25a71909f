//! A rolling update: each node is stopped cleanly under load, after its replacement has started.

use orderly::event::EventKind;
use orderly::store::snapshot::OrderRecord;

use super::load::{LoadSource, Urls, Workload};
use super::nodes::{Cluster, Settings};
use super::oracle::Evidence;
use crate::crash::load::seed;
use crate::support::until;

const CLIENTS: u64 = 8;
/// Orders sent before and during the replacement of each node.
const ORDERS_PER_STEP: usize = 100;
const ORDERS: Workload = Workload {
    name: "rolling",
    orders: 6 * ORDERS_PER_STEP,
    long_share: 0.3,
    cancelled_share: 0.0,
};

/// Some orders take longer than the grace time of a stop and are given back. No node dies, so no lease may expire,
/// however busy the machine is.
const SETTINGS: Settings = &[("ORDERLY_SHUTDOWN_GRACE", "1s"), ("ORDERLY_LEASE", "1m")];

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_loses_nothing_and_repeats_only_given_back_orders() {
    let Some(cluster) = Cluster::new(SETTINGS).await else {
        return;
    };
    let urls = Urls::default();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let node = cluster.start().await;
        urls.open(node.url());
        nodes.push(node);
    }
    let source = LoadSource::new(&urls, ORDERS, seed());
    let roll = async {
        for _ in 0..nodes.len() {
            let old = nodes.remove(0);
            source.demand(ORDERS_PER_STEP);
            let new = cluster.start().await;
            urls.open(new.url());
            nodes.push(new);
            source.demand(ORDERS_PER_STEP);
            // Clients keep sending to the node until it has stopped.
            let url = old.url().to_owned();
            assert_eq!(old.terminate().await, Some(0));
            urls.close(&url);
        }
        nodes
    };
    let (nodes, ()) = tokio::join!(roll, source.run(CLIENTS));
    until("all orders have ended", async || {
        nodes[0].open_orders().await == 0
    })
    .await;

    let evidence = Evidence {
        accepted_orders: source.accepted_orders(),
        silences: Vec::new(),
        records: cluster.records().await,
    };
    let breaches = evidence.breaches();
    assert!(breaches.is_empty(), "{breaches:#?}");
    assert!(evidence.count(EventKind::Released) > 0, "no order was given back");
    for record in &evidence.records {
        assert!(repeats_only_what_was_handed_back(record), "{:?}", record.events);
    }
    for node in nodes {
        assert_eq!(node.terminate().await, Some(0));
    }
    let (exit, report) = cluster.verify().await;
    assert_eq!(exit, Some(0), "{report}");
}

/// Reports whether every repeated start follows a give-back. No attempt fails here.
fn repeats_only_what_was_handed_back(record: &OrderRecord) -> bool {
    let kinds: Vec<EventKind> = record.events.iter().map(|stored| stored.event.kind).collect();
    kinds.windows(2).all(|pair| {
        pair[1] != EventKind::Started || [EventKind::Accepted, EventKind::Released].contains(&pair[0])
    })
}
