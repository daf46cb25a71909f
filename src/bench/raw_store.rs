//! Store yardstick: orders accepted by direct calls in this process, with as many concurrent calls as the load has
//! connections, on a new store of the same kind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::try_join_all;
use tokio_util::task::AbortOnDropHandle;

use super::load::Driven;
use super::script::user_of;
use crate::config::{Database, PasswordSources};
use crate::metrics::Metrics;
use crate::money::Money;
use crate::order::{ItemIds, NewOrder};
use crate::store::Store;
use crate::store::clock::system_clock;
use crate::store::open::{self, OpenOptions};

/// Number of orders prepared before the measurement.
const VARIANTS_ORDERS: usize = 4_000;

pub struct RawStore {
    store: Arc<dyn Store>,
}

impl RawStore {
    pub async fn open(database_url: &str) -> anyhow::Result<RawStore> {
        let (database, _) =
            Database::parse(database_url, &PasswordSources::default()).map_err(anyhow::Error::msg)?;
        let options = OpenOptions {
            migrate: true,
            pending_max: None,
            metrics: Metrics::new(),
            clock: system_clock(),
            ordering: None,
        };
        let store = open::open(&database, options).await?;
        Ok(RawStore { store })
    }

    pub async fn accept(
        &self,
        callers: usize,
        batch_size: usize,
        users: usize,
        time: Duration,
    ) -> anyhow::Result<Driven> {
        let one = order()?;
        let variants = (VARIANTS_ORDERS / batch_size).max(1);
        let of_variant = |variant: usize| {
            let numbers = (0..batch_size).map(|number| variant * batch_size + number);
            let orders = numbers.map(|number| NewOrder {
                user_id: i64::try_from(user_of(number, users)).unwrap_or(i64::MAX),
                ..one.clone()
            });
            orders.collect::<Arc<[NewOrder]>>()
        };
        let variants: Arc<[Arc<[NewOrder]>]> = (0..variants).map(of_variant).collect();
        let end = Instant::now() + time;
        let calls = (0..callers).map(|caller| {
            let called = call_on(self.store.clone(), variants.clone(), caller, end);
            AbortOnDropHandle::new(tokio::spawn(called))
        });
        let mut driven = Driven::default();
        for share in try_join_all(calls).await.context("call the store")? {
            driven.add(share?);
        }
        Ok(driven)
    }

    pub async fn close(&self) {
        self.store.close().await;
    }
}

async fn call_on(
    store: Arc<dyn Store>,
    variants: Arc<[Arc<[NewOrder]>]>,
    caller: usize,
    end: Instant,
) -> anyhow::Result<Driven> {
    let mut driven = Driven::default();
    // Like the connections of the load, callers start at different places.
    let mut next = caller.wrapping_mul(7_919);
    let mut began = Instant::now();
    while began < end {
        let orders = variants[next % variants.len()].clone();
        next = next.wrapping_add(1);
        store.accept(orders, None).await?;
        let now = Instant::now();
        driven.answered += 1;
        driven.in_time += u64::from(now <= end);
        driven.latencies.record(now - began);
        began = now;
    }
    Ok(driven)
}

/// Returns the order that the load generator sends.
pub fn order() -> anyhow::Result<NewOrder> {
    Ok(NewOrder {
        user_id: 104,
        item_ids: ItemIds::new(&[101, 102, 103]).context("three ids")?,
        total_amount: Money::parse("250.75").map_err(|error| anyhow::anyhow!("{error:?}"))?,
        reference: None,
        metadata: None,
    })
}
