//! Nodes after a change of the primary, and while standbys come and go (issue 15, points 1, 4 and 5).

use std::time::Duration;

use orderly::store::GivenBack;
use serde_json::Value;

use super::setup::{accept_keyed, jump, node, store_at, until_ready, warnings_with};
use crate::support::client::http;
use crate::support::make::{LEASE, LONGER_THAN_A_LEASE, NODE_A, NODE_B, claim_by, give_back_by, heartbeat};
use crate::support::postgres::{Pair, Stop, is_installed_with_standby};
use crate::support::process::Process;
use crate::support::{required, until};

/// Jumps during which a statement may be under way by chance, and one more.
const JUMPS_MAX: usize = 20;

fn has_standby() -> bool {
    required("a private PostgreSQL with a standby", is_installed_with_standby())
}

#[tokio::test]
async fn a_new_primary_whose_clock_is_ahead_takes_back_no_lease() {
    if !has_standby() {
        return;
    }
    let pair = Pair::start_synchronous().await;
    let database = pair.primary.create_database().await;
    let store = store_at(&pair.url(&database)).await;
    accept_keyed(&*store, "running").await.unwrap();
    store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    let lease = store.claim(claim_by(NODE_B, 1)).await.unwrap().leases.remove(0);
    let now = database.now().await;
    pair.primary.stop(Stop::Killed).await;
    pair.promote().await;
    let database = database.on(&pair.standby);
    database.set_clock(Some(now.plus(LONGER_THAN_A_LEASE))).await;
    // One node is back before the other, whose heartbeat has expired by the new clock.
    until("it is back", async || {
        store.renew(heartbeat(NODE_A, &[])).await.is_ok()
    })
    .await;
    let sweep = async || store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(sweep().await, GivenBack::default());
    assert_eq!(
        store.renew(heartbeat(NODE_B, &[lease.key()])).await.unwrap().lost,
        []
    );
    // The other node falls silent after that.
    let later = database.now().await.plus(LONGER_THAN_A_LEASE);
    database.set_clock(Some(later)).await;
    // A statement under way during a jump counts as hanging, after which no lease is taken back for one lease time. `until`
    // would give up by the clock that jumps.
    let mut taken_back = 0;
    for _ in 0..JUMPS_MAX {
        jump(LEASE).await;
        taken_back = sweep().await.pending;
        if taken_back > 0 {
            break;
        }
    }
    assert_eq!(taken_back, 1);
    store.close().await;
}

/// A node cannot renew its leases while commits hang, so the first node to recover finds all leases expired.
#[tokio::test(flavor = "multi_thread")]
async fn leases_that_expired_while_commits_hung_are_not_taken_back_at_once() {
    if !has_standby() {
        return;
    }
    let pair = Pair::start_synchronous().await;
    let database = pair.primary.create_database().await;
    let store = store_at(&database.url()).await;
    accept_keyed(&*store, "running").await.unwrap();
    store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    let lease = store.claim(claim_by(NODE_B, 1)).await.unwrap().leases.remove(0);
    pair.standby.freeze().await;
    accept_keyed(&*store, "hangs").await.unwrap_err();
    pair.standby.thaw().await;
    let now = database.now().await;
    database.set_clock(Some(now.plus(LONGER_THAN_A_LEASE))).await;
    until("it is back", async || {
        store.renew(heartbeat(NODE_A, &[])).await.is_ok()
    })
    .await;
    let sweep = async || store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(sweep().await, GivenBack::default());
    assert_eq!(
        store.renew(heartbeat(NODE_B, &[lease.key()])).await.unwrap().lost,
        []
    );
    store.close().await;
}

/// A cluster manager may empty the setting when the last standby goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_logs_that_no_standby_is_required_any_more() {
    // The private servers have fsync off, which is another weakness; the log distinguishes the two.
    const NO_LONGER: &str = "synchronous_standby_names is empty now";
    if !has_standby() {
        return;
    }
    let pair = Pair::start_synchronous().await;
    let database = pair.primary.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let mut command = node(folder.path(), &pair.url(&database));
    command.env("ORDERLY_LEASE", "1s");
    let node = Process::start(command).await;
    until_ready(&node).await;
    let durable = async || {
        let answer = http()
            .get(format!("{}/readyz?verbose", node.url))
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        let checks = answer["checks"].as_array().unwrap();
        let durability = checks.iter().find(|check| check["name"] == "durability");
        durability.unwrap()["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(!node.has_logged(NO_LONGER));
    pair.require_no_standby().await;
    node.until_logged(NO_LONGER).await;
    assert!(!durable().await.is_empty());
    assert_eq!(node.terminate().await, Some(0));
    assert_eq!(warnings_with(folder.path(), NO_LONGER).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_that_commits_wait_for_a_standby() {
    if !has_standby() {
        return;
    }
    let pair = Pair::start_synchronous().await;
    let database = pair.primary.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let migrated = node(folder.path(), &database.url()).arg("migrate").output().await;
    assert!(migrated.unwrap().status.success());
    let standby = async || {
        let mut doctor = node(folder.path(), &database.url());
        let said = doctor.args(["doctor", "--json"]).output().await.unwrap();
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        let checks = said["checks"].as_array().unwrap().clone();
        checks
            .into_iter()
            .find(|check| check["name"] == "standby")
            .unwrap()
    };
    assert_eq!(standby().await["state"], "ok");
    pair.standby.freeze().await;
    let store = store_at(&database.url()).await;
    let accepting = tokio::spawn(async move {
        let accepted = accept_keyed(&*store, "waits").await;
        store.close().await;
        accepted
    });
    pair.until_waiting(1).await;
    until("it waits for long enough", async || {
        let found = standby().await;
        found["state"] == "fail" && found["finding"].as_str().unwrap().contains("SyncRep")
    })
    .await;
    // The primary needs two seconds to notice that the standby is gone.
    until("the primary notices that it is gone", async || {
        standby().await["finding"]
            .as_str()
            .unwrap()
            .contains("none is connected")
    })
    .await;
    pair.require_no_standby().await;
    // On a slow machine the call may have timed out by now.
    let _answered = tokio::time::timeout(Duration::from_secs(20), accepting)
        .await
        .unwrap()
        .unwrap();
}
