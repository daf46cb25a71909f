//! Faults of a cluster's servers: in every round, one of three is killed and replaced, one is frozen repeatedly, and
//! one is left alone. The seed decides which and when.

use std::ops::Range;
use std::time::Duration;

use orderly::lease::NodeId;
use orderly::time::Timestamp;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::load::{LoadSource, Urls};
use super::nodes::{Cluster, LEASE, Node, now};

const ROUNDS: usize = 10;
const FREEZES_PER_ROUND: usize = 20;
pub const FREEZES: usize = ROUNDS * FREEZES_PER_ROUND;
/// Pauses between freezes.
const GAP: Range<Duration> = Duration::ZERO..Duration::from_millis(50);
const SHORT: Range<Duration> = Duration::from_micros(100)..Duration::from_millis(60);
/// Extra freeze time beyond the lease, once per round: other nodes have taken over by then, are about to, or come too
/// late.
const PAST_LEASE: Range<Duration> = Duration::ZERO..Duration::from_millis(800);
/// The freeze of a round before which a node is killed.
const KILLED_BEFORE: Range<usize> = 1..10;
const ABSENT_FOR: Range<usize> = 2..10;

/// A time longer than the lease in which a node did nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    pub node: NodeId,
    pub from: Timestamp,
    /// `None` for a killed node.
    pub until: Option<Timestamp>,
}

pub struct Faults<'f> {
    pub cluster: &'f Cluster,
    pub urls: &'f Urls,
    pub source: &'f LoadSource,
    /// Number of orders requested with every freeze, so that freezes meet orders in every status.
    pub orders_per_freeze: usize,
}

impl Faults<'_> {
    /// Runs all rounds and returns the silences.
    pub async fn run(&self, nodes: &mut Vec<Node>, seed: u64) -> Vec<Silence> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut silences = Vec::new();
        for _ in 0..ROUNDS {
            nodes.shuffle(&mut rng);
            self.round(nodes, &mut rng, &mut silences).await;
        }
        silences
    }

    /// Kills the last node and freezes the first.
    async fn round(&self, nodes: &mut Vec<Node>, rng: &mut StdRng, silences: &mut Vec<Silence>) {
        let mut victim = nodes.pop();
        let killed_before = rng.random_range(KILLED_BEFORE);
        let back_before = killed_before + rng.random_range(ABSENT_FOR);
        let past_lease = rng.random_range(0..FREEZES_PER_ROUND);
        for freeze in 0..FREEZES_PER_ROUND {
            self.source.demand(self.orders_per_freeze);
            if freeze == killed_before
                && let Some(victim) = victim.take()
            {
                silences.push(self.kill(victim).await);
            }
            if freeze == back_before {
                nodes.push(self.start().await);
            }
            sleep(rng.random_range(GAP)).await;
            if freeze == past_lease {
                let span = LEASE + rng.random_range(PAST_LEASE);
                silences.push(freeze_for(&nodes[0], span).await);
            } else {
                freeze_for(&nodes[0], rng.random_range(SHORT)).await;
            }
        }
    }

    async fn kill(&self, node: Node) -> Silence {
        let (id, url) = (node.id, node.url().to_owned());
        node.kill().await;
        self.urls.close(&url);
        Silence {
            node: id,
            from: now(),
            until: None,
        }
    }

    async fn start(&self) -> Node {
        let node = self.cluster.start().await;
        self.urls.open(node.url());
        node
    }
}

async fn freeze_for(node: &Node, span: Duration) -> Silence {
    node.freeze().await;
    let from = now();
    sleep(span).await;
    let until = Some(now());
    node.thaw().await;
    Silence {
        node: node.id,
        from,
        until,
    }
}
