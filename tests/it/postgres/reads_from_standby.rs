//! Lists and feed pages from the server of `DATABASE_READ_URL` (issue 15, point 6).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::StatusCode;

use super::setup::{accept_keyed, log_in, node, number, status_of, store_at, until_ready, warnings_with};
use crate::support::postgres::{Stop, is_installed_with_standby};
use crate::support::process::Process;
use crate::support::{required, until};

mod fixture;

use fixture::{Page, ReplicaFixture, feed, get, list};

const DOES_NOT_SERVE: &str = "DATABASE_READ_URL leads to no server that serves reads";
const SERVES_AGAIN: &str = "the server of DATABASE_READ_URL serves lists and feed pages again";

fn has_standby() -> bool {
    required("a private PostgreSQL with a standby", is_installed_with_standby())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_feed_pages_come_from_the_standby() {
    if !has_standby() {
        return;
    }
    let fixture = ReplicaFixture::with_orders(40).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let primary = fixture.node_on_primary(elsewhere.path()).await;
    let before = fixture.served("feed", "standby").await;
    let from_standby = feed(&fixture.node, None, 20).await;
    assert_eq!(from_standby, feed(&primary, None, 1_000).await);
    assert_eq!(from_standby.len(), 120);
    // All pages but the last, which is not full.
    assert!(fixture.served("feed", "standby").await >= before + 5);
    let session = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'orderly'";
    assert!(number(&fixture.standby().await, session).await > 0);
    // An order that is only on the primary is in no list of the node.
    fixture.pause_replay().await;
    fixture.place(1).await;
    assert_eq!(list(&fixture.node, "limit=500").await.ids().len(), 40);
    assert_eq!(list(&primary, "limit=500").await.ids().len(), 41);
    // A point read goes to the primary.
    let newest = list(&primary, "limit=1").await.ids()[0];
    let order = get(&fixture.node, &format!("/orders/{newest}")).await.body;
    assert_eq!(order["status"], "Completed");
    assert_eq!(primary.terminate().await, Some(0));
    fixture.end().await;
}

/// A client reads a list, and then follows the feed from the cursor of the list's first page.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_from_a_lagging_standby_and_the_feed_miss_no_event() {
    if !has_standby() {
        return;
    }
    let fixture = ReplicaFixture::with_orders(30).await;
    fixture.pause_replay().await;
    fixture.place(10).await;
    let first = list(&fixture.node, "limit=8").await;
    let mut versions = BTreeMap::new();
    let mut add = |page: &Page| {
        for order in page.body["orders"].as_array().unwrap() {
            let version = order["version"].as_u64().unwrap();
            versions.insert(order["order_id"].as_i64().unwrap(), version);
        }
    };
    add(&first);
    let mut next = first.next().map(str::to_owned);
    while let Some(cursor) = next {
        let page = list(&fixture.node, &format!("limit=8&cursor={cursor}")).await;
        add(&page);
        next = page.next().map(str::to_owned);
    }
    assert_eq!(versions.len(), 30);
    for event in feed(&fixture.node, first.cursor.as_deref(), 7).await {
        let (order_id, version) = (
            event["order_id"].as_i64().unwrap(),
            event["version"].as_u64().unwrap(),
        );
        let known = versions.entry(order_id).or_default();
        assert!(
            version <= *known + 1,
            "order {order_id} misses an event before {version}"
        );
        *known = version.max(*known);
    }
    assert_eq!(versions.len(), 40);
    assert!(versions.values().all(|version| *version == 3), "{versions:?}");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_ahead_of_the_standby_is_answered_by_the_primary() {
    if !has_standby() {
        return;
    }
    let fixture = ReplicaFixture::with_orders(30).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let primary = fixture.node_on_primary(elsewhere.path()).await;
    fixture.pause_replay().await;
    fixture.place(20).await;
    // The first page of the list comes from a node that has seen more.
    let first = list(&primary, "limit=8").await;
    let before = fixture.served("list", "primary").await;
    let second = format!("limit=8&cursor={}", first.next().unwrap());
    let expected = list(&primary, &second).await;
    let found = list(&fixture.node, &second).await;
    assert_eq!(found.body["orders"], expected.body["orders"]);
    assert_eq!(fixture.served("list", "primary").await, before + 1);
    // The primary also answers a cursor without a log position.
    let bare = tempfile::tempdir().unwrap();
    let plain = Process::start(node(bare.path(), &fixture.database.url())).await;
    until_ready(&plain).await;
    let first = list(&plain, "limit=8").await;
    let second = format!("limit=8&cursor={}", first.next().unwrap());
    assert_eq!(
        list(&fixture.node, &second).await.body["orders"],
        expected.body["orders"]
    );
    assert_eq!(fixture.served("list", "primary").await, before + 2);
    // Feed pages switch from the standby to the primary without a gap.
    assert_eq!(
        feed(&fixture.node, None, 20).await,
        feed(&primary, None, 1_000).await
    );
    assert!(fixture.served("feed", "standby").await > 0);
    // The standby serves the rest of the list once it has replayed what the first page showed.
    let standby = fixture.standby().await;
    standby
        .batch_execute("select pg_wal_replay_resume()")
        .await
        .unwrap();
    fixture.pair.caught_up().await;
    let before = fixture.served("list", "standby").await;
    let second = format!(
        "limit=8&cursor={}",
        list(&primary, "limit=8").await.next().unwrap()
    );
    fixture.pair.caught_up().await;
    assert_eq!(
        list(&fixture.node, &second).await.body["orders"],
        expected.body["orders"]
    );
    assert_eq!(fixture.served("list", "standby").await, before + 1);
    for node in [primary, plain] {
        assert_eq!(node.terminate().await, Some(0));
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_continue_while_the_standby_is_frozen_or_gone() {
    if !has_standby() {
        return;
    }
    let fixture = ReplicaFixture::with_orders(30).await;
    let whole = feed(&fixture.node, None, 1_000).await;
    for (begin, end) in [("freeze", "thaw"), ("stop", "start")] {
        match begin {
            "freeze" => fixture.pair.standby.freeze().await,
            _ => fixture.pair.standby.stop(Stop::Fast).await,
        }
        // Every read is answered, and only the first waits for the standby.
        assert_eq!(list(&fixture.node, "limit=500").await.ids().len(), 30);
        assert_eq!(status_of(&fixture.node, "/readyz").await, StatusCode::OK);
        let began = Instant::now();
        assert_eq!(list(&fixture.node, "limit=500").await.ids().len(), 30);
        assert_eq!(feed(&fixture.node, None, 20).await, whole);
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{begin}: {:?}",
            began.elapsed()
        );
        assert_eq!(status_of(&fixture.node, "/readyz").await, StatusCode::OK);
        match end {
            "thaw" => fixture.pair.standby.thaw().await,
            _ => fixture.pair.standby.start_again().await,
        }
        fixture.until_standby_serves().await;
    }
    assert_eq!(status_of(&fixture.node, "/readyz").await, StatusCode::OK);
    let folder = fixture.folder.path().to_owned();
    let ReplicaFixture {
        pair: _pair,
        folder: _folder,
        node,
        ..
    } = fixture;
    assert_eq!(node.terminate().await, Some(0));
    let warned = warnings_with(&folder, DOES_NOT_SERVE).len();
    let recovered = log_in(&folder)
        .iter()
        .filter(|line| line["message"] == SERVES_AGAIN)
        .count();
    assert!(
        warned >= 2 && warned == recovered,
        "{warned} warnings, {recovered} recoveries"
    );
    assert_eq!(warnings_with(&folder, "cannot be written"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_with_an_epoch_of_its_own_serves_no_reads() {
    if !has_standby() {
        return;
    }
    let fixture = ReplicaFixture::with_orders(30).await;
    fixture.pair.promote().await;
    let promoted = fixture.standby().await;
    // The promoted standby has the primary's history so far, without a new epoch or new positions.
    let given = "select (select count(*) from orderly.epochs) * 1000000
        + (select last_position from orderly.queue) + (select count(*) from orderly.batches)";
    let before = number(&promoted, given).await;
    let unnumbered = "update orderly.batches set first_position = null
        where batch = (select max(batch) from orderly.batches) returning batch";
    promoted.query_one(unnumbered, &[]).await.unwrap();
    list(&fixture.node, "limit=500").await;
    feed(&fixture.node, None, 20).await;
    list(&fixture.node, "limit=500").await;
    let waiting = "select count(*) from orderly.batches where first_position is null";
    assert_eq!(number(&promoted, waiting).await, 1);
    assert_eq!(number(&promoted, given).await, before);
    // An epoch begins on it, with orders that the primary does not have.
    let store = store_at(&fixture.database.on(&fixture.pair.standby).url()).await;
    for name in ["one", "two", "three"] {
        accept_keyed(&*store, name).await.unwrap();
    }
    store.close().await;
    let (lists, pages) = (
        fixture.served("list", "standby").await,
        fixture.served("feed", "standby").await,
    );
    until("the log says that it does not serve", async || {
        let ids = list(&fixture.node, "limit=500").await.ids();
        assert_eq!(ids.len(), 30);
        assert_eq!(feed(&fixture.node, None, 20).await.len(), 90);
        fixture.node.has_logged("its newest epoch is not the primary's")
    })
    .await;
    assert_eq!(fixture.served("list", "standby").await, lists);
    assert_eq!(fixture.served("feed", "standby").await, pages);
    assert_eq!(status_of(&fixture.node, "/readyz").await, StatusCode::OK);
    fixture.end().await;
}
