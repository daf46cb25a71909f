//! The live feed of a cluster: a subscriber at one node gets all events of all nodes once and in feed order, even when
//! transactions commit late and when it resumes at another node.

use std::sync::Arc;
use std::sync::Mutex;

use futures_util::future::join_all;
use orderly::order::OrderId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::nodes::{Cluster, Node, Settings};
use crate::support::late::{HeldCommits, PlainReader};
use crate::support::postgres::Server;
use crate::support::proxy::{Action, Flight, Proxy};
use crate::support::{PATIENCE, until};

/// Orders are processed at once, some of them repeatedly.
const SETTINGS: Settings = &[
    ("ORDERLY_CONCURRENCY", "8"),
    ("ORDERLY_SIMULATED_SPEED", "0"),
    ("ORDERLY_SIMULATED_FAILURE_RATE", "0.2"),
    ("ORDERLY_MAX_ATTEMPTS", "3"),
    ("ORDERLY_RETRY_BASE", "5ms"),
];
const SHOPS_PER_NODE: u64 = 2;
const BATCHES_PER_SHOP: usize = 25;
/// At most this many of the four connections that accept and settle are held at a time.
const HELD_MAX: usize = 2;
/// Number of events after which a roaming subscriber moves to the other node.
const EVENTS_PER_VISIT: usize = 15;

/// Delivered changes with their cursors.
type Delivered = Vec<((OrderId, u64), String)>;

/// Commits of one node are delayed, those of the other are not.
#[tokio::test(flavor = "multi_thread")]
async fn subscribers_at_every_node_get_each_event_once_despite_late_commits() {
    let Some(cluster) = Cluster::new(SETTINGS).await else {
        return;
    };
    let seed: u64 = rand::random();
    println!("seed: {seed}");
    let proxy = Proxy::before(Server::shared().await.address()).await;
    let held = hold_commits(&proxy, seed);
    let late = cluster
        .start_at(&cluster.database.url_at("127.0.0.1", proxy.address().port()))
        .await;
    let punctual = cluster.start().await;

    let (total, delivered) = watch::channel(None);
    let faithful = [&late, &punctual].map(|node| Follower::new(vec![node.url().to_owned()]));
    let restless = Follower::new(vec![late.url().to_owned(), punctual.url().to_owned()]);
    let mut followers = Vec::new();
    for follower in faithful.into_iter().chain([restless]) {
        followers.push(follower.begin().await);
    }
    let following = join_all(
        followers
            .into_iter()
            .map(|follower| follower.follow(delivered.clone())),
    );

    let shops = (0..SHOPS_PER_NODE).flat_map(|number| [(&late, number), (&punctual, 10 + number)]);
    let story = async {
        join_all(shops.map(|(node, number)| place_orders(node, seed.wrapping_add(number)))).await;
        until("all orders have ended", async || {
            punctual.open_orders().await == 0
        })
        .await;
        let admin = cluster.database.admin().await;
        until("every event has a position", async || {
            let unplaced = "select count(*) from orderly.batches where first_position is null";
            admin.query_one(unplaced, &[]).await.unwrap().get::<_, i64>(0) == 0
        })
        .await;
        let happened = happened(&cluster).await;
        total.send_replace(Some(happened.len()));
        happened
    };
    let mut plain = PlainReader::new(cluster.database.admin().await);
    let mut rng = StdRng::seed_from_u64(seed);
    let open_gates = async {
        while total.borrow().is_none() {
            plain.read().await;
            held.open_one(&mut rng);
        }
    };
    let (received, happened, ()) = tokio::join!(following, story, open_gates);
    for (number, delivered) in received.iter().enumerate() {
        let changes: Vec<_> = delivered.iter().map(|(change, _)| *change).collect();
        assert_eq!(changes.len(), happened.len(), "follower {number}");
        assert_eq!(changes, happened, "follower {number}");
        assert_eq!(
            delivered, &received[0],
            "follower {number}: cursors differ between nodes"
        );
    }
    plain.read().await;
    assert!(
        plain.seen() < happened.len(),
        "the control skipped nothing: {} of {}",
        plain.seen(),
        happened.len()
    );
    let (exit, report) = cluster.verify().await;
    assert_eq!(exit, Some(0), "{report}");
}

/// Delays commits that accept orders or end attempts.
fn hold_commits(proxy: &Proxy, seed: u64) -> Arc<HeldCommits> {
    let writes = |flight: &Flight| {
        let sql = flight.sql();
        sql.contains("from orderly.accept") || sql.contains("from orderly.settle")
    };
    let held = Arc::new(HeldCommits::new(HELD_MAX));
    let (deciding, rng) = (held.clone(), Mutex::new(StdRng::seed_from_u64(seed)));
    proxy.on_flight(move |flight| {
        if writes(flight) {
            deciding.action(&mut rng.lock().unwrap())
        } else {
            Action::Forward
        }
    });
    held
}

/// Places orders at a node and cancels some of them.
async fn place_orders(node: &Node, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..BATCHES_PER_SHOP {
        let orders = node.accept(rng.random_range(1..4)).await;
        if rng.random_bool(0.3) {
            let (status, answer) = node.act(&format!("/orders/{}/cancel", orders[0])).await;
            assert!(
                [StatusCode::OK, StatusCode::CONFLICT].contains(&status),
                "{answer}"
            );
        }
    }
}

/// All changes, in feed order.
async fn happened(cluster: &Cluster) -> Vec<(OrderId, u64)> {
    let records = cluster.records().await;
    let mut events: Vec<_> = records
        .iter()
        .flat_map(|record| &record.events)
        .map(|stored| {
            let event = &stored.event;
            (stored.position, (event.order_id, u64::from(event.version)))
        })
        .collect();
    events.sort_unstable();
    events.into_iter().map(|(_, change)| change).collect()
}

/// A subscriber to all events. With several nodes it moves between them.
struct Follower {
    nodes: Vec<String>,
    http: reqwest::Client,
    visits: usize,
    cursor: Option<String>,
    stream: Option<Stream>,
    delivered: Delivered,
}

/// An open stream.
struct Stream {
    response: Response,
    text: String,
}

impl Follower {
    fn new(nodes: Vec<String>) -> Follower {
        // The HTTP client needs a TLS provider although these tests use none. It may be installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Follower {
            nodes,
            http: reqwest::Client::new(),
            visits: 0,
            cursor: None,
            stream: None,
            delivered: Vec::new(),
        }
    }

    /// Follows from now on. The position is known once the stream begins.
    async fn begin(mut self) -> Follower {
        self.resume_elsewhere().await;
        let beginning = self.block().await;
        assert!(beginning.starts_with("retry: "), "{beginning}");
        self
    }

    /// Moves to the next node and resumes there.
    async fn resume_elsewhere(&mut self) {
        let node = &self.nodes[self.visits % self.nodes.len()];
        self.visits += 1;
        let mut request = self.http.get(format!("{node}/events"));
        request = request.header("Accept", "text/event-stream");
        if let Some(cursor) = &self.cursor {
            request = request.header("Last-Event-ID", cursor);
        }
        let response = request.send().await.expect("a live node answers");
        assert_eq!(response.status(), StatusCode::OK);
        self.stream = Some(Stream {
            response,
            text: String::new(),
        });
    }

    /// Follows until all changes are delivered.
    async fn follow(mut self, mut total: watch::Receiver<Option<usize>>) -> Delivered {
        let mut of_visit = 0;
        loop {
            let enough = |total: &Option<usize>| total.is_some_and(|total| self.delivered.len() >= total);
            let block = tokio::select! {
                biased;
                all = total.wait_for(enough) => {
                    all.expect("the total is sent before its sender ends");
                    return self.delivered;
                }
                block = next_block(self.stream.as_mut().expect("a stream is open")) => block,
            };
            of_visit += usize::from(self.take(&block));
            if self.nodes.len() > 1 && of_visit == EVENTS_PER_VISIT {
                of_visit = 0;
                self.resume_elsewhere().await;
            }
        }
    }

    async fn block(&mut self) -> String {
        let block = next_block(self.stream.as_mut().expect("a stream is open")).await;
        self.take(&block);
        block
    }

    /// Reports whether the block was a change.
    fn take(&mut self, block: &str) -> bool {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        if let Some(id) = field("id: ") {
            self.cursor = Some(id.to_owned());
        }
        match field("event: ") {
            None => return false,
            Some(kind) => assert_eq!(kind, "order", "{block}"),
        }
        let event: Value = serde_json::from_str(field("data: ").expect("an event has data")).unwrap();
        let number = |name: &str| event[name].as_i64().expect("a number");
        let version = number("version").unsigned_abs();
        let cursor = event["cursor"].as_str().expect("a cursor").to_owned();
        self.delivered
            .push(((OrderId(number("order_id")), version), cursor));
        true
    }
}

/// Cancel safe: received bytes are kept.
async fn next_block(stream: &mut Stream) -> String {
    let next = async {
        loop {
            if let Some((block, rest)) = stream.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                stream.text = rest;
                return block;
            }
            let chunk = stream.response.chunk().await.expect("the stream is complete");
            let chunk = chunk.expect("the stream ends only with its node");
            let text = std::str::from_utf8(&chunk).expect("frames end at character boundaries");
            stream.text.push_str(text);
        }
    };
    timeout(PATIENCE, next).await.expect("a block arrives in time")
}
