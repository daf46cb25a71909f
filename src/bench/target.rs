//! Control of the server under test beside the load: its queue, its counts, single orders.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::time::sleep;

use super::connection::Connection;
use super::script::{Caller, Script, Turns, order_ids};
use super::statistics::Latencies;

/// Interval of reading the counts while the queue empties; each read is a query of the store.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum time for the queue to empty.
const EMPTY_TIME_MAX: Duration = Duration::from_mins(10);
/// Orders per request when the queue is filled.
const FILL_BATCH: usize = 1_000;
/// Concurrent requests that fill the queue.
const FILL_CONNECTIONS: usize = 4;
/// Pause between two orders of an idle server, so that it is idle when the next one comes.
const IDLE_TIME: Duration = Duration::from_millis(20);
/// Interval of checks whether such an order is completed.
const PICKUP_LOOK_INTERVAL: Duration = Duration::from_millis(10);
const PICKUP_TIME_MAX: Duration = Duration::from_secs(30);

/// Orders by state.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    pub open: u64,
    pub completed: u64,
}

pub async fn set_paused(caller: &Caller, paused: bool) -> anyhow::Result<()> {
    let path = if paused { "/queue/pause" } else { "/queue/resume" };
    ask(caller, &caller.post(path, "")).await?;
    Ok(())
}

pub async fn numbers(caller: &Caller) -> anyhow::Result<Numbers> {
    let mut connection = Connection::open(caller.address).await?;
    numbers_over(&mut connection, caller).await
}

async fn numbers_over(connection: &mut Connection, caller: &Caller) -> anyhow::Result<Numbers> {
    let metrics = ask_over(connection, &caller.get("/metrics")).await?;
    let number = |name: &str| {
        metrics[name]
            .as_u64()
            .with_context(|| format!("{name} of /metrics"))
    };
    Ok(Numbers {
        open: number("pending_orders")? + number("processing_orders")?,
        completed: number("completed_orders")?,
    })
}

/// Waits until no order is open.
pub async fn emptied(caller: &Caller) -> anyhow::Result<()> {
    let mut connection = Connection::open(caller.address).await?;
    let started = Instant::now();
    while numbers_over(&mut connection, caller).await?.open > 0 {
        ensure!(
            started.elapsed() < EMPTY_TIME_MAX,
            "the queue does not empty within {EMPTY_TIME_MAX:?}"
        );
        sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Returns the time to process `orders` that wait when the queue is resumed. Leaves the queue running.
pub async fn drain(caller: &Caller, orders: usize, users: usize) -> anyhow::Result<Duration> {
    set_paused(caller, true).await?;
    fill(caller, orders, users).await?;
    let before = numbers(caller).await?;
    let expected = before.completed + orders as u64;
    ensure!(
        before.open == orders as u64,
        "{} orders wait instead of {orders}",
        before.open
    );
    let started = Instant::now();
    set_paused(caller, false).await?;
    emptied(caller).await?;
    let took = started.elapsed();
    let completed = numbers(caller).await?.completed;
    ensure!(
        completed == expected,
        "{completed} orders are completed instead of {expected}"
    );
    Ok(took)
}

/// Accepts the given number of orders.
async fn fill(caller: &Caller, orders: usize, users: usize) -> anyhow::Result<()> {
    let shares = (0..FILL_CONNECTIONS).map(|share| async move {
        // The first shares take the remainder.
        let mut left = orders / FILL_CONNECTIONS + usize::from(share < orders % FILL_CONNECTIONS);
        let mut connection = Connection::open(caller.address).await?;
        while left > 0 {
            let count = left.min(FILL_BATCH);
            let turns = Turns::begin(Script::batch(caller, count, users).into(), 0);
            // Sending the same batch repeatedly is cheaper than creating new ones.
            for _ in 0..left / count {
                ask_over(&mut connection, turns.request()).await?;
            }
            left %= count;
        }
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(shares).await?;
    Ok(())
}

/// Creates a batch of orders to read and returns their ids.
pub async fn stock(caller: &Caller, users: usize) -> anyhow::Result<Vec<i64>> {
    let mut connection = Connection::open(caller.address).await?;
    let turns = Turns::begin(Script::batch(caller, FILL_BATCH, users).into(), 0);
    let answer = connection.exchange(turns.request()).await?;
    ensure!(answer.is_good(), "{}", answer.describe());
    let ids = order_ids(answer.body);
    ensure!(!ids.is_empty(), "a batch was answered without orders");
    Ok(ids)
}

/// Pick-up latencies of orders, from the arrival of their 201.
#[derive(Default)]
pub struct PickedUp {
    pub count: u64,
    /// Latency until the no-op processor was done: an upper bound for its start.
    pub processed: Latencies,
    /// Latency until the start stored in the order, which lies within the claim.
    pub started: Latencies,
}

/// Sends one order at a time for `time`.
pub async fn pick_up(caller: &Caller, time: Duration, users: usize) -> anyhow::Result<PickedUp> {
    let mut connection = Connection::open(caller.address).await?;
    let mut turns = Turns::begin(Script::accept(caller, users).into(), 0);
    let mut picked_up = PickedUp::default();
    let started = Instant::now();
    while picked_up.count == 0 || started.elapsed() < time {
        sleep(IDLE_TIME).await;
        let answer = connection.exchange(turns.request()).await?;
        let answered_at = SystemTime::now();
        ensure!(answer.is_good(), "{}", answer.describe());
        let id = *order_ids(answer.body).first().context("an order has an id")?;
        turns.answered(b"");
        let order = completed(&mut connection, caller, id).await?;
        let since = |field: &str| -> anyhow::Result<Duration> {
            let text = order[field]
                .as_str()
                .with_context(|| format!("{field} of order {id}"))?;
            let at: jiff::Timestamp = text.parse().context("read a time")?;
            // Zero if it started before the answer arrived.
            Ok(SystemTime::from(at)
                .duration_since(answered_at)
                .unwrap_or_default())
        };
        picked_up.processed.record(since("completed_at")?);
        picked_up.started.record(since("processing_at")?);
        picked_up.count += 1;
    }
    Ok(picked_up)
}

/// Polls until the order is completed, at intervals: a long poll would give the server work.
async fn completed(connection: &mut Connection, caller: &Caller, id: i64) -> anyhow::Result<Value> {
    let request = caller.get(&format!("/orders/{id}"));
    let started = Instant::now();
    while started.elapsed() < PICKUP_TIME_MAX {
        sleep(PICKUP_LOOK_INTERVAL).await;
        let order = ask_over(connection, &request).await?;
        if order["status"] == "Completed" {
            return Ok(order);
        }
    }
    bail!("order {id} is not completed within {PICKUP_TIME_MAX:?}")
}

async fn ask(caller: &Caller, request: &[u8]) -> anyhow::Result<Value> {
    let mut connection = Connection::open(caller.address).await?;
    ask_over(&mut connection, request).await
}

async fn ask_over(connection: &mut Connection, request: &[u8]) -> anyhow::Result<Value> {
    let answer = connection.exchange(request).await?;
    ensure!(answer.is_good(), "{}", answer.describe());
    serde_json::from_slice(answer.body).context("read an answer")
}
