//! Another server, or another timeline of it: an epoch begins with the first message that gives something out (issue 15, point 2).

use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use orderly::lease::{Lease, Outcome, ProcessorKind};
use orderly::store::{ClaimRequest, FEED_EVENTS_MAX, SettledOutside, Store};
use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use super::scene::{Scene, node, store_at, until_ready, warnings_with};
use crate::support::client::http;
use crate::support::make::{NODE_A, claim_by, new_order};
use crate::support::process::Process;

/// What a promotion does to what the store knows of its server.
const PROMOTED: &str = "update orderly.epochs set timeline = '0000000A'";
/// What loading a dump into another server does.
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
            let Some(scene) = Scene::new().await else {
                return;
            };
            let mut stores = vec![scene.store.clone()];
            for _ in 0..3 {
                stores.push(store_at(&scene.database.url()).await);
            }
            let before = stores[0].accept([new_order()].into(), None).await.unwrap();
            scene.admin.batch_execute(change).await.unwrap();
            join_all(stores.iter().map(|store| carry_out(&**store, first))).await;
            assert_eq!(scene.number(EPOCHS).await, 2, "{first:?} after {change}");
            let after = stores[0].accept([new_order()].into(), None).await.unwrap();
            assert!(after.order_ids[0].0 - before.order_ids[0].0 >= 1_000_000);
            for store in &stores[1..] {
                store.close().await;
            }
            scene.end().await;
        }
    }
}

/// The other node has not heard of the epoch.
async fn two_nodes() -> Option<(Scene, Arc<dyn Store>)> {
    let scene = Scene::new().await?;
    let other = store_at(&scene.database.url()).await;
    other.events_after(None, 0).await.unwrap();
    Some((scene, other))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_loses_nothing_costs_nobody_anything() {
    let Some((scene, other)) = two_nodes().await else {
        return;
    };
    let store = &*scene.store;
    let id = store.accept([new_order()].into(), None).await.unwrap().order_ids[0];
    let lease = take(store).await.remove(0);
    let page = store.events_after(None, FEED_EVENTS_MAX).await.unwrap();
    let cursor = page.bounds.cursor(page.bounds.last);
    scene.admin.batch_execute(PROMOTED).await.unwrap();
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
        .settle_outside(id, lease.token, Outcome::Released)
        .await
        .unwrap();
    assert!(matches!(settled, SettledOutside::Done(_)), "{settled:?}");
    let again = take(store)
        .await
        .into_iter()
        .find(|lease| lease.order.order_id == id);
    let again = again.expect("it was released");
    assert_eq!(again.attempt_key, lease.attempt_key);
    assert!(again.fence >> 32 > lease.fence >> 32);
    other.close().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_epoch_is_known_to_a_node_that_did_not_begin_it() {
    let Some((scene, other)) = two_nodes().await else {
        return;
    };
    let id = scene
        .store
        .accept([new_order()].into(), None)
        .await
        .unwrap()
        .order_ids[0];
    scene.admin.batch_execute(PROMOTED).await.unwrap();
    let lease = take(&*scene.store).await.remove(0);
    let settled = other
        .settle_outside(id, lease.token, Outcome::COMPLETED)
        .await
        .unwrap();
    assert!(matches!(settled, SettledOutside::Done(_)), "{settled:?}");
    other.close().await;
    scene.end().await;
}

async fn accepts(node: &Process) {
    let order = json!({"user_id": 104, "item_ids": "7", "total_amount": 1});
    let sent = http().post(format!("{}/orders", node.url)).json(&order).send();
    assert_eq!(sent.await.unwrap().status(), StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_warns_of_an_epoch_and_no_other() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    let folders: [TempDir; 2] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let mut nodes = Vec::new();
    for folder in &folders {
        let started = Process::start(node(folder.path(), &scene.database.url())).await;
        until_ready(&started).await;
        nodes.push(started);
    }
    accepts(&nodes[0]).await;
    scene.admin.batch_execute(PROMOTED).await.unwrap();
    join_all(nodes.iter().map(accepts)).await;
    for node in nodes {
        assert_eq!(node.terminate().await, Some(0));
    }
    let warnings = |folder: &Path| warnings_with(folder, "timeline 0000000A");
    let told: Vec<String> = folders
        .iter()
        .flat_map(|folder| warnings(folder.path()))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("may be missing"), "{told:?}");
    scene.end().await;
}
