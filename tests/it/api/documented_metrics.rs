//! Metrics that the documentation names.

use std::collections::BTreeSet;

use super::exposition::{Exposition, Format};
use super::in_process::Api;
use crate::redis::handout::METRICS as WITH_REDIS;

/// An alert on a name that no scrape has never fires.
#[tokio::test]
async fn every_metric_in_the_documentation_exists() {
    let api = Api::open().await;
    let scraped = api.get("/metrics/prometheus").await;
    let scraped = Exposition::read(scraped.text(), Format::Classic);
    let names = scraped.families.iter().map(|family| family.name.as_str());
    // A node without a worker has no breaker, and `redis::handout` scrapes one with Redis.
    let elsewhere = WITH_REDIS.into_iter().chain(["orderly_breaker_state"]);
    let known: BTreeSet<&str> = names.chain(elsewhere).collect();
    let manual = concat!(
        include_str!("../../../docs/API.md"),
        include_str!("../../../docs/OPERATIONS.md")
    );
    let is_part = |character: char| character.is_ascii_lowercase() || character == '_';
    let documented: BTreeSet<&str> = manual
        .split(|character| !is_part(character))
        .filter(|word| word.starts_with("orderly_"))
        .map(|name| name.trim_end_matches("_count"))
        .collect();
    assert!(documented.len() > 20, "{documented:?}");
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    api.close_empty().await;
}
