//! Three nodes with Redis under load, with faults at random instants; `cargo xtask soak redis` plants a hundred.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::cluster::load::{LoadSource, Urls, Workload};
use crate::cluster::nodes::{Cluster, Node};
use crate::cluster::oracle::Evidence;
use crate::crash::load::seed;
use crate::redis::handout::{SETTINGS, assert_sound, until_done};
use crate::soak::in_full;

const CLIENTS: u64 = 8;
const ORDERS_PER_FAULT: usize = 40;
/// Nodes claim from the store once a second, which bounds a start whatever Redis does; with a slack of five.
const WAIT_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillNode,
    KillRedis,
    Flush,
    Sleep,
    Freeze,
    /// One node alone does not reach Redis.
    Partition,
    Duplicates,
}

const FAULTS: [Fault; 7] = [
    Fault::KillNode,
    Fault::KillRedis,
    Fault::Flush,
    Fault::Sleep,
    Fault::Freeze,
    Fault::Partition,
    Fault::Duplicates,
];

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_or_ends_twice_whatever_happens_to_redis() {
    let count = if in_full() { 100 } else { FAULTS.len() };
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut nodes = vec![
        cluster.start().await,
        cluster.start().await,
        cluster.start().await,
    ];
    let urls = Urls::default();
    for node in &nodes {
        urls.open(node.url());
    }
    let workload = Workload {
        name: "redis",
        orders: count * ORDERS_PER_FAULT,
        long_share: 0.0,
        cancelled_share: 0.02,
    };
    let source = LoadSource::new(&urls, workload, seed);
    let plant = async {
        for number in 0..count {
            source.demand(ORDERS_PER_FAULT);
            sleep(Duration::from_millis(rng.random_range(0..200))).await;
            // Each kind comes in a slice as well.
            let fault = FAULTS[number % FAULTS.len()];
            act(&cluster, &mut nodes, &urls, fault, &mut rng).await;
        }
    };
    tokio::join!(plant, source.run(CLIENTS));
    until_done(&nodes[0]).await;
    let evidence = Evidence {
        accepted_orders: source.accepted_orders(),
        silences: Vec::new(),
        records: cluster.records().await,
    };
    let breaches = evidence.breaches_with_redis();
    assert!(breaches.is_empty(), "{breaches:#?}");
    assert!(
        evidence.longest_wait() < WAIT_MAX,
        "{:?}",
        evidence.longest_wait()
    );
    println!(
        "{count} faults, {} orders, longest wait for a start {:?}",
        evidence.records.len(),
        evidence.longest_wait()
    );
    assert_sound(&cluster).await;
}

async fn act(cluster: &Cluster, nodes: &mut Vec<Node>, urls: &Urls, fault: Fault, rng: &mut StdRng) {
    let redis = cluster.redis();
    match fault {
        Fault::KillNode => {
            let node = nodes.swap_remove(rng.random_range(0..nodes.len()));
            urls.close(node.url());
            node.kill().await;
            let node = cluster.start().await;
            urls.open(node.url());
            nodes.push(node);
        }
        Fault::KillRedis => {
            redis.kill().await;
            sleep(Duration::from_millis(rng.random_range(0..1_000))).await;
            redis.start_again().await;
        }
        Fault::Flush => redis.ask::<()>("FLUSHALL").await,
        Fault::Sleep => redis.ask::<()>("DEBUG SLEEP 0.7").await,
        Fault::Freeze => {
            redis.freeze().await;
            sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
            redis.thaw().await;
        }
        Fault::Partition => {
            let node = &nodes[rng.random_range(0..nodes.len())];
            let way = node.way_to_redis.as_ref().expect("nodes have ways of their own");
            way.cut();
            sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
            way.mend();
        }
        Fault::Duplicates => {
            let key = Cluster::redis_key("orders");
            for id in 1..50 {
                redis.ask::<String>(&format!("XADD {key} * o {id}")).await;
            }
        }
    }
}
