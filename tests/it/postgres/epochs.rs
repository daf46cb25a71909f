//! A store on another server or timeline: the first message that gives out a number begins an epoch (issue 15, point 2).

use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use orderly::lease::{Lease, Outcome, ProcessorKind};
use orderly::store::{ClaimRequest, FEED_EVENTS_MAX, SettledExternal, Store};
use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use super::setup::{Setup, node, store_at, until_ready, warnings_with};
use crate::support::client::http;
use crate::support::make::{NODE_A, claim_by, new_order};
use crate::support::process::Process;

/// Simulates a promotion: the server has another timeline than the stored one.
const PROMOTED: &str = "update orderly.epochs set timeline = '0000000A'";
/// Simulates a dump loaded into another server: the stored system identifier differs.
const MOVED: &str = "update orderly.epochs set system_identifier = system_identifier - 1";
const EPOCHS: &str = "select count(*) from orderly.epochs";

async fn take(store: &dyn Store) -> Vec<Lease> {
    let request = ClaimRequest {
        processor: Some(ProcessorKind::Http),
        ..claim_by(NODE_A, 10)
    };
    store.claim(request).await.unwrap().leases
}

#[derive(Clone, Copy, Debug)]
enum First {
    Accept,
    Claim,
    Number,
}

async fn carry_out(store: &dyn Store, first: First) {
    match first {
        First::Accept => drop(store.accept([new_order()].into(), None).await.unwrap()),
        First::Claim => drop(take(store).await),
        First::Number => drop(store.events_after(None, FEED_EVENTS_MAX).await.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_on_another_server_begins_one_epoch() {
    for first in [First::Accept, First::Claim, First::Number] {
        for change in [PROMOTED, MOVED] {
            let Some(setup) = Setup::new().await else { return };
            let mut stores = vec![setup.store.clone()];
            for _ in 0..3 {
                stores.push(store_at(&setup.database.url()).await);
            }
            let before = stores[0].accept([new_order()].into(), None).await.unwrap();
            setup.admin.batch_execute(change).await.unwrap();
            join_all(stores.iter().map(|store| carry_out(&**store, first))).await;
            assert_eq!(setup.number(EPOCHS).await, 2, "{first:?} after {change}");
            let after = stores[0].accept([new_order()].into(), None).await.unwrap();
            assert!(after.order_ids[0].0 - before.order_ids[0].0 >= 1_000_000);
            for store in &stores[1..] {
                store.close().await;
            }
            setup.end().await;
        }
    }
}

/// A store and another node of it, which has not read the new epoch.
async fn two_nodes() -> Option<(Setup, Arc<dyn Store>)> {
    let setup = Setup::new().await?;
    let other = store_at(&setup.database.url()).await;
    other.events_after(None, 0).await.unwrap();
    Some((setup, other))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lossless_promotion_does_not_affect_clients_or_workers() {
    let Some((setup, other)) = two_nodes().await else {
        return;
    };
    let store = &*setup.store;
    let id = store.accept([new_order()].into(), None).await.unwrap().order_ids[0];
    let lease = take(store).await.remove(0);
    let page = store.events_after(None, FEED_EVENTS_MAX).await.unwrap();
    let cursor = page.bounds.cursor(page.bounds.last);
    setup.admin.batch_execute(PROMOTED).await.unwrap();
    store.accept([new_order()].into(), None).await.unwrap();
    for node in [store, &*other] {
        let page = node
            .events_after(Some(cursor.position), FEED_EVENTS_MAX)
            .await
            .unwrap();
        assert!(page.bounds.contain(cursor));
        assert_eq!(page.bounds.epochs.all().len(), 2);
        assert_ne!(page.bounds.cursor(page.bounds.last).epoch, cursor.epoch);
    }
    let settled = other
        .settle_external(id, lease.token, Outcome::Released)
        .await
        .unwrap();
    assert!(matches!(settled, SettledExternal::Done(_)), "{settled:?}");
    let again = take(store)
        .await
        .into_iter()
        .find(|lease| lease.order.order_id == id);
    let again = again.expect("the order was released");
    assert_eq!(again.attempt_key, lease.attempt_key);
    assert!(again.fence >> 32 > lease.fence >> 32);
    other.close().await;
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_accepts_tokens_of_an_epoch_that_another_node_began() {
    let Some((setup, other)) = two_nodes().await else {
        return;
    };
    let id = setup
        .store
        .accept([new_order()].into(), None)
        .await
        .unwrap()
        .order_ids[0];
    setup.admin.batch_execute(PROMOTED).await.unwrap();
    let lease = take(&*setup.store).await.remove(0);
    let settled = other
        .settle_external(id, lease.token, Outcome::COMPLETED)
        .await
        .unwrap();
    assert!(matches!(settled, SettledExternal::Done(_)), "{settled:?}");
    other.close().await;
    setup.end().await;
}

async fn accepts(node: &Process) {
    let order = json!({"user_id": 104, "item_ids": "7", "total_amount": 1});
    let sent = http().post(format!("{}/orders", node.url)).json(&order).send();
    assert_eq!(sent.await.unwrap().status(), StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_node_warns_about_a_new_epoch() {
    let Some(setup) = Setup::new().await else { return };
    let folders: [TempDir; 2] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let mut nodes = Vec::new();
    for folder in &folders {
        let started = Process::start(node(folder.path(), &setup.database.url())).await;
        until_ready(&started).await;
        nodes.push(started);
    }
    accepts(&nodes[0]).await;
    setup.admin.batch_execute(PROMOTED).await.unwrap();
    join_all(nodes.iter().map(accepts)).await;
    for node in nodes {
        assert_eq!(node.terminate().await, Some(0));
    }
    let warnings = |folder: &Path| warnings_with(folder, "timeline 0000000A");
    let warnings: Vec<String> = folders
        .iter()
        .flat_map(|folder| warnings(folder.path()))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("may be missing"), "{warnings:?}");
    setup.end().await;
}
