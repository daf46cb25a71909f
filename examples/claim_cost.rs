//! Cost of a claim in a crowded database compared to an empty one: 1,000,000 completed orders, 100,000 waiting for their
//! retry, and an old snapshot that keeps all dead rows since then from being removed. See docs/BENCHMARKS.md.
//!
//! `cargo run --release --example claim_cost -- EMPTY_DATABASE_URL CROWDED_DATABASE_URL`, both databases new.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::stream::{self, StreamExt};
use orderly::config::{Database, PostgresDatabase, PostgresUrl};
use orderly::lease::{Lease, NodeId, Outcome};
use orderly::metrics::Metrics;
use orderly::money::Money;
use orderly::order::{Items, NewOrder, UserId};
use orderly::store::clock::system_clock;
use orderly::store::open::{OpenOptions, open};
use orderly::store::{CLAIM_ORDERS_MAX, ClaimRequest, Store};

const COMPLETED: usize = 1_000_000;
const WAITING: usize = 100_000;
const ROUNDS: usize = 5;
const CLAIMS_PER_ROUND: usize = 50;
const ORDERS_PER_CLAIM: usize = 100;
/// Orders per call of `accept`.
const BATCH: usize = 1_000;
/// Concurrent results.
const SETTLES: usize = 1_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let urls: Vec<String> = std::env::args().skip(1).collect();
    let [empty, crowded] = &urls[..] else {
        bail!("two database URLs are needed: one that stays empty, one to be filled");
    };
    let (empty, crowded) = (Bench::open(empty).await?, Bench::open(crowded).await?);
    eprintln!("filling the crowded database");
    crowded.fill(COMPLETED, &Outcome::COMPLETED).await?;
    let later = Outcome::Retry {
        after: Duration::from_hours(24),
        error: "the warehouse is closed".to_owned(),
    };
    crowded.fill(WAITING, &later).await?;
    // Held until the end.
    let _snapshot = crowded.store.snapshot().await?;
    let mut pairs = Vec::new();
    for round in 1..=ROUNDS {
        let (of_empty, of_crowded) = (empty.claim_time().await?, crowded.claim_time().await?);
        let ratio = of_crowded.as_secs_f64() / of_empty.as_secs_f64();
        println!("round {round}: empty {of_empty:.2?}, crowded {of_crowded:.2?}, ratio {ratio:.2}");
        pairs.push(ratio);
    }
    pairs.sort_by(f64::total_cmp);
    println!(
        "ratio of the medians of {CLAIMS_PER_ROUND} claims of {ORDERS_PER_CLAIM}: min {:.2}, median {:.2}, max {:.2}",
        pairs[0],
        pairs[ROUNDS / 2],
        pairs[ROUNDS - 1]
    );
    empty.store.close().await;
    crowded.store.close().await;
    Ok(())
}

struct Bench {
    store: Arc<dyn Store>,
}

impl Bench {
    async fn open(url: &str) -> anyhow::Result<Bench> {
        let (url, _) = PostgresUrl::parse(url).map_err(anyhow::Error::msg)?;
        let database = Database::Postgres(Box::new(PostgresDatabase::at(url)));
        let options = OpenOptions {
            migrate: true,
            pending_max: None,
            metrics: Metrics::new(),
            clock: system_clock(),
            ordering: None,
            peers: None,
        };
        let store = open(&database, options).await?;
        if store.counters().await?.total() > 0 {
            bail!("the database already has orders");
        }
        Ok(Bench { store })
    }

    async fn accept(&self, count: usize) -> anyhow::Result<()> {
        let order = NewOrder {
            user_id: UserId::Number(104),
            items: Items::of_ids(&[101, 102, 103]).context("three ids")?,
            total_amount: Money::parse("250.75", 2).map_err(|error| anyhow::anyhow!("{error:?}"))?,
            currency: None,
            reference: None,
            metadata: None,
            start_after: None,
            deadline: None,
            hold: None,
        };
        for _ in 0..count.div_ceil(BATCH) {
            self.store.accept(vec![order.clone(); BATCH].into(), None).await?;
        }
        Ok(())
    }

    async fn claim(&self, orders_max: usize) -> anyhow::Result<Vec<Lease>> {
        let request = ClaimRequest {
            node: NodeId(1),
            orders_max,
            lease: Duration::from_hours(1),
            suspect: false,
            processor: None,
        };
        Ok(self.store.claim(request).await?.leases)
    }

    async fn settle(&self, leases: Vec<Lease>, outcome: &Outcome) -> anyhow::Result<()> {
        let settled: Vec<_> = stream::iter(leases)
            .map(|lease| self.store.settle(lease.key(), outcome.clone()))
            .buffer_unordered(SETTLES)
            .collect()
            .await;
        for result in settled {
            result?;
        }
        Ok(())
    }

    /// Takes `count` orders through one attempt.
    async fn fill(&self, count: usize, outcome: &Outcome) -> anyhow::Result<()> {
        let mut ended = 0;
        while ended < count {
            self.accept(BATCH).await?;
            loop {
                let leases = self.claim(CLAIM_ORDERS_MAX).await?;
                if leases.is_empty() {
                    break;
                }
                ended += leases.len();
                self.settle(leases, outcome).await?;
            }
        }
        Ok(())
    }

    /// Returns the median time of a round's claims.
    async fn claim_time(&self) -> anyhow::Result<Duration> {
        self.accept(CLAIMS_PER_ROUND * ORDERS_PER_CLAIM).await?;
        let mut times = Vec::new();
        for _ in 0..CLAIMS_PER_ROUND {
            let started = Instant::now();
            let leases = self.claim(ORDERS_PER_CLAIM).await?;
            times.push(started.elapsed());
            if leases.len() != ORDERS_PER_CLAIM {
                bail!("a claim found {} orders", leases.len());
            }
            self.settle(leases, &Outcome::COMPLETED).await?;
        }
        times.sort_unstable();
        Ok(times[CLAIMS_PER_ROUND / 2])
    }
}
