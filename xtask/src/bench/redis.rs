//! `cargo xtask bench redis`: what Redis saves PostgreSQL and what it costs, with 1, 2 and 4 nodes, in turns with the same nodes
//! without it. Prints one table each for load, start order and the wait of single orders.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::shop::{Shop, Way};
use super::{build, new_folder, spread};
use crate::needs;
use crate::server::Server;

mod order;

const NODES: [usize; 3] = [1, 2, 4];
const WAYS: [Way; 2] = [Way::Plain, Way::Redis];
/// Settings of PostgreSQL by which it counts statements and logs each wait for a lock of a millisecond or more.
const COUNTING: [&str; 3] = [
    "shared_preload_libraries=pg_stat_statements",
    "log_lock_waits=on",
    "deadlock_timeout=1ms",
];
const LOAD_TIME: &str = "5s";
/// Connections of the load generators together.
const CONNECTIONS: usize = 64;
const IDLE_TIME: Duration = Duration::from_secs(20);
/// Orders placed one at a time on idle nodes.
const SINGLE_ORDERS: usize = 100;

/// Figures of one load.
struct Load {
    per_second: f64,
    statements: f64,
    claim_waits: f64,
    waits: f64,
    cpu_micros: f64,
    idle_statements: f64,
    started: order::Inversions,
}

pub fn bench(root: &Path, rounds: usize) -> Result<()> {
    needs::bring_for_bench()?;
    build(["--bin", "orderly"])?;
    let folder = new_folder(root)?;
    let server = Server::start_with(&folder.join("server"), &COUNTING)?;
    let mut loads = Vec::new();
    for nodes in NODES {
        let mut of_ways = WAYS.map(|_| Vec::new());
        for round in 1..=rounds {
            for (way, found) in WAYS.into_iter().zip(&mut of_ways) {
                let load = load(root, &folder, &server, way, nodes)
                    .with_context(|| format!("{nodes} nodes {}", way.name()))?;
                println!(
                    "round {round}: {nodes} nodes {}: {:.0} orders/s",
                    way.name(),
                    load.per_second
                );
                found.push(load);
            }
        }
        loads.extend(
            WAYS.into_iter()
                .zip(of_ways)
                .map(|(way, found)| (nodes, way, found)),
        );
    }
    print_loads(&loads);
    print_order(&loads);
    println!("\n| wait from the commit of the 201 to the start | p50 | p99 |\n|---|---|---|");
    for (what, way, starter) in [
        ("same node, plain", Way::Plain, Starter::Same),
        ("same node, Redis", Way::Redis, Starter::Same),
        ("another node, plain", Way::Plain, Starter::Other),
        ("another node, Redis", Way::Redis, Starter::Other),
        (
            "another node, behind PgBouncer, plain",
            Way::Pooled,
            Starter::Other,
        ),
        (
            "another node, behind PgBouncer, Redis",
            Way::PooledRedis,
            Starter::Other,
        ),
    ] {
        let waits = waits(root, &folder, &server, way, starter).with_context(|| what.to_owned())?;
        let of = |percent: usize| waits[(waits.len() - 1) * percent / 100] as f64 / 1_000.0;
        println!("| {what} | {:.1} ms | {:.1} ms |", of(50), of(99));
    }
    Ok(())
}

/// Places orders at all nodes for [`LOAD_TIME`] and waits until the last is completed.
fn load(root: &Path, folder: &Path, server: &Server, way: Way, nodes: usize) -> Result<Load> {
    server.with_database(|database| {
        server.query(database, "create extension pg_stat_statements")?;
        let shop = Shop::start(root, folder, server, database, way, nodes, &[])?;
        let statements = || -> Result<f64> {
            let sum = server.query(
                database,
                "select coalesce(sum(calls), 0) from pg_stat_statements
                 where dbid = (select oid from pg_database where datname = current_database())",
            )?;
            sum.trim().parse().context("a sum")
        };
        let (waits_before, cpu_before, statements_before) =
            (server.lock_waits()?, server.cpu_micros()?, statements()?);
        let began = Instant::now();
        shop.place_orders(CONNECTIONS / nodes, LOAD_TIME)?;
        let orders = shop.until_completed()?;
        let seconds = began.elapsed().as_secs_f64();
        let (waits_after, cpu_after, statements_after) =
            (server.lock_waits()?, server.cpu_micros()?, statements()?);
        thread::sleep(Duration::from_secs(3));
        let idle_from = statements()?;
        thread::sleep(IDLE_TIME);
        // Less the two questions of this program.
        let idle = statements()? - idle_from - 1.0;
        ensure!(orders > 0, "no order was placed");
        let count = orders as f64;
        Ok(Load {
            per_second: count / seconds,
            statements: (statements_after - statements_before) / count,
            claim_waits: (waits_after.of_claims - waits_before.of_claims) as f64 / count * 1_000.0,
            waits: (waits_after.all - waits_before.all) as f64 / count * 1_000.0,
            cpu_micros: (cpu_after - cpu_before) / count,
            idle_statements: idle * 60.0 / IDLE_TIME.as_secs_f64(),
            started: order::inversions(&shop.started()?),
        })
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Starter {
    /// The node that accepted the order.
    Same,
    Other,
}

/// Returns how long single orders waited on idle nodes, in microseconds, sorted.
fn waits(root: &Path, folder: &Path, server: &Server, way: Way, starter: Starter) -> Result<Vec<u64>> {
    server.with_database(|database| {
        // The only slot of the first node is taken by an order that takes more than a week.
        let busy: &[(&str, &str)] = &[
            ("ORDERLY_CONCURRENCY", "1"),
            ("ORDERLY_SIMULATED_SPEED", "0.000001"),
        ];
        let first = if starter == Starter::Other { busy } else { &[] };
        let mut shop = Shop::start(root, folder, server, database, way, 1, first)?;
        if starter == Starter::Other {
            shop.place_one()?;
            shop.until_processing()?;
            shop.add_node(&[])?;
        }
        let mut waits = Vec::new();
        for _ in 0..SINGLE_ORDERS {
            waits.push(shop.wait_of_one()?);
        }
        waits.sort_unstable();
        Ok(waits)
    })
}

fn print_loads(loads: &[(usize, Way, Vec<Load>)]) {
    println!(
        "\n| nodes | completed per second | statements per order | lock waits of claims per 1,000 orders | all lock waits | \
         CPU of PostgreSQL per order | idle statements per minute |\n|---|---|---|---|---|---|---|"
    );
    for (nodes, way, found) in loads {
        let median = |figure: fn(&Load) -> f64| spread(&found.iter().map(figure).collect::<Vec<_>>())[1];
        println!(
            "| {nodes}, {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.0} µs | {:.0} |",
            way.name(),
            median(|load| load.per_second),
            median(|load| load.statements),
            median(|load| load.claim_waits),
            median(|load| load.waits),
            median(|load| load.cpu_micros),
            median(|load| load.idle_statements),
        );
    }
}

fn print_order(loads: &[(usize, Way, Vec<Load>)]) {
    println!("\n| nodes | pairs of starts | inverted per million | largest distance |\n|---|---|---|---|");
    for (nodes, way, found) in loads {
        let pairs: u64 = found.iter().map(|load| load.started.pairs).sum();
        let inverted: u64 = found.iter().map(|load| load.started.inverted).sum();
        let distance = found.iter().map(|load| load.started.distance).max().unwrap_or(0);
        println!(
            "| {nodes}, {} | {pairs} | {:.1} | {distance} |",
            way.name(),
            inverted as f64 * 1e6 / pairs.max(1) as f64
        );
    }
}
