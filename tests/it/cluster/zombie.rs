//! A zombie node: frozen with results in flight, it loses its leases and resumes after other nodes have taken its
//! orders. The control runs the same with a settle statement rewritten to skip the fence check.

use std::sync::Arc;

use orderly::order::OrderId;

use super::faults::Silence;
use super::load::{AcceptedOrder, LoadSource, Urls, Workload};
use super::nodes::{Cluster, Node, now};
use super::oracle::Evidence;
use crate::crash::load::seed;
use crate::support::gate::Gate;
use crate::support::postgres::Server;
use crate::support::proxy::{Action, Proxy};
use crate::support::until;

/// The settle function, and a copy without its fence check.
const SETTLE: &str = "orderly.settle_";
const UNFENCED: &str = "orderly.unfenced_settle_";
const FENCE_CHECKS: [&str; 1] = [" and l.fence = result.fence"];
/// Orders take longer than a lease, so new owners still run them when the zombie's results arrive.
const ORDERS: Workload = Workload {
    name: "zombie",
    orders: 8,
    long_share: 1.0,
    cancelled_share: 0.0,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    AsShipped,
    /// The check is removed between the zombie and the database.
    TakenOut,
}

/// Three nodes, the first of which was a zombie.
pub struct ZombieRun {
    pub nodes: Vec<Node>,
    pub accepted_orders: Vec<AcceptedOrder>,
    pub silence: Silence,
    /// The zombie's connection to the database.
    _proxy: Proxy,
}

/// Delays the results of the first node until the two others have its orders.
pub async fn run_zombie(cluster: &Cluster, fencing: Fencing, seed: u64) -> ZombieRun {
    let proxy = Proxy::before(Server::shared().await.address()).await;
    let on_the_way = Gate::closed();
    keep_results_back(&proxy, &on_the_way, fencing);
    let url = cluster.database.url_at("127.0.0.1", proxy.address().port());
    let zombie = cluster.start_at(&url).await;
    cluster
        .database
        .copy_function(SETTLE, UNFENCED, &FENCE_CHECKS)
        .await;
    let accepted_orders = place_orders(&zombie, seed).await;
    until("the first node has all orders", async || {
        zombie.get("/queue").await["processing"] == accepted_orders.len()
    })
    .await;
    let (first, second) = tokio::join!(cluster.start(), cluster.start());

    on_the_way.arrival().await;
    zombie.freeze().await;
    let from = now();
    until("the other nodes have all orders", async || {
        let mut taken = true;
        for accepted in &accepted_orders {
            taken &= started_times(&first, accepted.order_id).await > 1;
        }
        taken
    })
    .await;
    on_the_way.open();
    let silence = Silence {
        node: zombie.id,
        from,
        until: Some(now()),
    };
    zombie.thaw().await;
    ZombieRun {
        nodes: vec![zombie, first, second],
        accepted_orders,
        silence,
        _proxy: proxy,
    }
}

fn keep_results_back(proxy: &Proxy, gate: &Arc<Gate>, fencing: Fencing) {
    let then = match fencing {
        Fencing::AsShipped => Action::Forward,
        Fencing::TakenOut => Action::Rewrite {
            from: SETTLE.to_owned(),
            to: UNFENCED.to_owned(),
        },
    };
    let gate = gate.clone();
    proxy.on_flight(move |flight| {
        if flight.sql().contains(&format!("from {SETTLE}")) {
            Action::KeepBack {
                gate: gate.clone(),
                then: Box::new(then.clone()),
            }
        } else {
            Action::Forward
        }
    });
}

async fn place_orders(node: &Node, seed: u64) -> Vec<AcceptedOrder> {
    let urls = Urls::default();
    urls.open(node.url());
    let source = LoadSource::new(&urls, ORDERS, seed);
    source.demand(ORDERS.orders);
    source.run(1).await;
    source.accepted_orders()
}

async fn started_times(node: &Node, id: OrderId) -> usize {
    let history = node.get(&format!("/orders/{id}/events")).await;
    let events = history["events"].as_array().expect("events").iter();
    events.filter(|event| event["kind"] == "started").count()
}

/// Runs the scenario and returns the breaches and the result of `orderly verify`.
async fn aftermath(cluster: &Cluster, fencing: Fencing) -> (Vec<String>, (Option<i32>, String)) {
    let zombie_run = run_zombie(cluster, fencing, seed()).await;
    let [zombie, first, _] = &zombie_run.nodes[..] else {
        panic!("there are three nodes");
    };
    match fencing {
        Fencing::AsShipped => {
            until("stale results are counted", async || {
                zombie.stale_results().await > 0
            })
            .await;
        }
        // Then the rightful owner is the one that comes too late.
        Fencing::TakenOut => {}
    }
    until("all orders have ended", async || first.open_orders().await == 0).await;
    let evidence = Evidence {
        accepted_orders: zombie_run.accepted_orders,
        silences: vec![zombie_run.silence],
        records: cluster.records().await,
    };
    (evidence.breaches(), cluster.verify().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_a_lost_lease_is_refused_and_counted() {
    let Some(cluster) = Cluster::new(&[]).await else {
        return;
    };
    let (breaches, (exit, report)) = aftermath(&cluster, Fencing::AsShipped).await;
    assert!(breaches.is_empty(), "{breaches:#?}");
    assert_eq!(exit, Some(0), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_detects_a_store_that_does_not_check_fences() {
    let Some(cluster) = Cluster::new(&[]).await else {
        return;
    };
    assert_detects_missing_fences(&cluster).await;
}

/// Asserts that the oracle and `orderly verify` notice when results of lost leases are taken.
pub async fn assert_detects_missing_fences(cluster: &Cluster) {
    let (breaches, (exit, report)) = aftermath(cluster, Fencing::TakenOut).await;
    assert!(
        breaches.iter().any(|breach| breach.starts_with("fenced")),
        "{breaches:#?}"
    );
    assert_eq!(exit, Some(1), "{report}");
    assert!(report.contains("fenced"), "{report}");
}
