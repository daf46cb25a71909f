//! One trial: a new cluster, a node per way, load on all of them, one failure, and the results.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::cluster::{self, Cluster, PASSWORD};
use super::daemon::{self, Daemon};
use super::follower::{self, Heard};
use super::http;
use super::isolation;
use super::judge::{self, Row, Seen, Stored};
use super::load::{self, Record};
use super::scenario::{Failure, Scenario, Stage};
use super::watch::Watch;
use super::way::{self, Node, Way};

/// Time of HAProxy's first checks; until then, at most 3 s, it takes every server for the primary.
const FIRST_CHECKS: Duration = Duration::from_secs(4);
/// Duration of the load before the failure.
const CALM_BEFORE: Duration = Duration::from_secs(6);
/// Duration of the load after recovery.
const CALM_AFTER: Duration = Duration::from_secs(6);
/// Maximum time until every node stores again, and then until the cluster is complete.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(90);
/// Maximum time until all orders have ended and all subscribers know: longer than a lease (30 s).
const END_TIME_MAX: Duration = Duration::from_secs(60);
/// Maximum time for killed processes to disappear.
const LEFT_TIME_MAX: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// State shared by a node's clients.
#[derive(Default)]
struct Clients {
    record: Record,
    heard: Mutex<Heard>,
}

/// Runs the trial and returns a row per way. Ends everything it started.
pub fn run(scenario: Scenario, ways: &[Way], program: &Path, logs: &Path) -> Result<Vec<Row>> {
    daemon::make_folder(logs)?;
    let mut cluster = Cluster::start(logs, scenario.is_strict())?;
    let tried = try_out(scenario, ways, program, logs, &mut cluster);
    let ended = cluster.end();
    let rows = tried?;
    ended?;
    let deadline = Instant::now() + LEFT_TIME_MAX;
    loop {
        let left = isolation::processes_left()?;
        if left.is_empty() {
            return Ok(rows);
        }
        ensure!(
            Instant::now() < deadline,
            "processes left over: {}",
            left.join(", ")
        );
        sleep(LOOK_INTERVAL);
    }
}

fn try_out(
    scenario: Scenario,
    ways: &[Way],
    program: &Path,
    logs: &Path,
    cluster: &mut Cluster,
) -> Result<Vec<Row>> {
    make_database(cluster)?;
    scenario.prepare()?;
    let goes_through = |proxies: &[Way]| ways.iter().any(|way| proxies.contains(way));
    let mut haproxy = goes_through(&[Way::Haproxy, Way::Pgbouncer])
        .then(|| way::start_haproxy(logs))
        .transpose()?;
    let mut pgbouncer = goes_through(&[Way::Pgbouncer])
        .then(|| way::start_pgbouncer(logs))
        .transpose()?;
    if haproxy.is_some() {
        sleep(FIRST_CHECKS);
    }
    let nodes = ways
        .iter()
        .map(|way| Node::start(program, *way, logs))
        .collect::<Result<Vec<Node>>>()?;
    let watch = Watch::start();
    let stage = &mut Stage {
        cluster,
        haproxy: &mut haproxy,
        watch: &watch,
        logs,
    };
    let (failure, clients, stored) = under_load(&nodes, || {
        let failure = scenario.happen(stage)?;
        if let Err(error) = stage.cluster.wait_until_whole(RECOVERY_TIME_MAX) {
            println!("{}: {error:#}", scenario.name());
        }
        Ok(failure)
    })?;
    let crashed = pgbouncer.as_mut().map(Daemon::ended).transpose()?.flatten();
    let mut rows = Vec::new();
    for (node, clients) in nodes.into_iter().zip(clients) {
        let seen = Seen {
            way: node.way,
            placed: clients.record.placed(),
            looks: clients.record.looks(),
            heard: load::locked(&clients.heard).clone(),
            verify: node.verify()?,
            exit: node.stop(),
        };
        let mut row = judge::judge(scenario, &failure, &seen, &stored);
        if let (Way::Pgbouncer, Some(status)) = (row.way, crashed) {
            row.broken.push(format!("PgBouncer ended: {status}"));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn make_database(cluster: &Cluster) -> Result<()> {
    let leader = cluster::leader().context("no machine leads")?;
    let role = format!("create role orderly login password '{PASSWORD}'");
    cluster.ask(leader, "postgres", &role)?;
    cluster.ask(leader, "postgres", "create database orderly owner orderly")?;
    Ok(())
}

/// Runs clients at every node during the failure and until recovery; then reads the store.
fn under_load(
    nodes: &[Node],
    failure: impl FnOnce() -> Result<Failure>,
) -> Result<(Failure, Vec<Arc<Clients>>, Stored)> {
    let first = nodes.first().context("no node")?;
    let (_, beginning) = follower::read_feed(&first.url("/events"))?;
    let writers = u32::try_from(nodes.len()).context("few nodes")? * load::WRITERS_PER_NODE;
    let interval = Duration::from_secs(1) * writers / load::RATE;
    let clients: Vec<Arc<Clients>> = nodes.iter().map(|_| Arc::default()).collect();
    // A subscriber blocks until its node sends something, so it may briefly outlive the trial.
    let followers_end = Arc::new(AtomicBool::new(false));
    for (node, clients) in nodes.iter().zip(&clients) {
        let (url, from) = (node.url("/events"), beginning.clone());
        let (clients, ends) = (Arc::clone(clients), Arc::clone(&followers_end));
        thread::spawn(move || follower::follow(&url, from, &clients.heard, &ends));
    }
    let ends = &AtomicBool::new(false);
    let happened = thread::scope(|scope| {
        for (node, clients) in nodes.iter().zip(&clients) {
            for number in 1..=load::WRITERS_PER_NODE {
                let writer = format!("{}-{number}", node.way.name());
                scope.spawn(move || {
                    load::write(&node.url("/orders"), &writer, interval, &clients.record, ends);
                });
            }
            scope.spawn(move || load::watch_readiness(&node.url("/readyz"), &clients.record, ends));
        }
        sleep(CALM_BEFORE);
        let happened = failure();
        wait_until_all_store(&clients);
        sleep(CALM_AFTER);
        ends.store(true, Ordering::Relaxed);
        happened
    });
    let read = happened.and_then(|failure| Ok((failure, read_stored(first, &clients)?)));
    followers_end.store(true, Ordering::Relaxed);
    let (failure, stored) = read?;
    Ok((failure, clients, stored))
}

/// Waits until each node has accepted an order sent after this call. The judge reports nodes that do not in time.
fn wait_until_all_store(clients: &[Arc<Clients>]) {
    let since = Instant::now();
    while !clients.iter().all(|clients| clients.record.accepts_since(since))
        && since.elapsed() < RECOVERY_TIME_MAX
    {
        sleep(LOOK_INTERVAL);
    }
}

/// Waits until all orders have ended and every subscriber has all events, then reads both.
fn read_stored(node: &Node, clients: &[Arc<Clients>]) -> Result<Stored> {
    let deadline = Instant::now() + END_TIME_MAX;
    while open_orders(node).is_none_or(|open| open > 0) && Instant::now() < deadline {
        sleep(LOOK_INTERVAL);
    }
    let (events, _) = follower::read_feed(&node.url("/events"))?;
    let has_all = |clients: &Arc<Clients>| load::locked(&clients.heard).events.len() >= events.len();
    while !clients.iter().all(has_all) && Instant::now() < deadline {
        sleep(LOOK_INTERVAL);
    }
    Ok(Stored {
        orders: follower::read_orders(&node.url("/orders"))?,
        events,
    })
}

fn open_orders(node: &Node) -> Option<u64> {
    let answer = http::get(&node.url("/metrics"), ANSWER_TIME_MAX).ok()?;
    let numbers = answer.json().ok()?;
    Some(numbers["pending_orders"].as_u64()? + numbers["processing_orders"].as_u64()?)
}
