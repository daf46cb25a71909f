//! Store yardstick: orders accepted by direct calls of a new store in this process, as many at a time as the load has
//! connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::try_join_all;
use orderly::bench::{connections_for_batches, per_second};
use orderly::config::{Database, PasswordSources};
use orderly::metrics::Metrics;
use orderly::money::Money;
use orderly::order::{Items, NewOrder, UserId};
use orderly::store::Store;
use orderly::store::clock::system_clock;
use orderly::store::open::{self, OpenOptions};
use tokio_util::task::AbortOnDropHandle;

/// Number of orders prepared before the measurement.
const VARIANTS_ORDERS: usize = 4_000;

/// Calls as the load generator would cause them.
#[derive(Clone, Copy)]
pub struct Callers {
    pub connections: usize,
    pub batch_size: usize,
    pub users: i64,
}

/// Returns the orders per second that a new store accepts.
pub async fn rate(database_url: &str, callers: Callers, time: Duration) -> anyhow::Result<f64> {
    let (database, _) =
        Database::parse(database_url, &PasswordSources::default()).map_err(anyhow::Error::msg)?;
    let options = OpenOptions {
        peers: None,
        migrate: true,
        pending_max: None,
        metrics: Metrics::new(),
        clock: system_clock(),
        ordering: None,
    };
    let store = open::open(&database, options).await?;
    let numbers: Vec<i64> = (0..).take(VARIANTS_ORDERS.max(callers.batch_size)).collect();
    let one = order()?;
    let batch = |numbers: &[i64]| -> Arc<[NewOrder]> {
        let orders = numbers.iter().map(|number| NewOrder {
            user_id: UserId::Number(number % callers.users + 1),
            ..one.clone()
        });
        orders.collect()
    };
    let batches: Arc<[_]> = numbers.chunks_exact(callers.batch_size).map(batch).collect();
    let end = Instant::now() + time;
    let connections = connections_for_batches(callers.connections, callers.batch_size);
    let calls = (0..connections).map(|caller| {
        let called = call(store.clone(), batches.clone(), caller, end);
        AbortOnDropHandle::new(tokio::spawn(called))
    });
    let mut accepted = 0;
    for batches in try_join_all(calls).await.context("call the store")? {
        accepted += batches? * callers.batch_size as u64;
    }
    store.close().await;
    Ok(per_second(accepted, time))
}

/// Returns the number of batches accepted by `end`.
async fn call(
    store: Arc<dyn Store>,
    batches: Arc<[Arc<[NewOrder]>]>,
    caller: usize,
    end: Instant,
) -> anyhow::Result<u64> {
    // Like the connections of the load, callers start at different places.
    let mut next = caller.wrapping_mul(7_919);
    let mut accepted = 0;
    while Instant::now() < end {
        store.accept(batches[next % batches.len()].clone(), None).await?;
        accepted += u64::from(Instant::now() <= end);
        next = next.wrapping_add(1);
    }
    Ok(accepted)
}

/// Returns an order like those of the load generator.
pub fn order() -> anyhow::Result<NewOrder> {
    Ok(NewOrder {
        user_id: UserId::Number(104),
        items: Items::of_ids(&[101, 102, 103]).context("three ids")?,
        total_amount: Money::parse("250.75", 2).map_err(|error| anyhow::anyhow!("{error:?}"))?,
        currency: None,
        reference: None,
        metadata: None,
        start_after: None,
        deadline: None,
        hold: None,
    })
}
