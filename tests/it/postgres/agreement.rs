//! Nodes with different processors on one store (issue 13, point 6d). A node left at `simulated` beside others would complete
//! orders without any effect.

use orderly::lease::{LeaseKey, NodeId, Outcome, ProcessorKind};
use orderly::order::{OnFailure, Ordering};
use orderly::store::{ClaimRequest, Heartbeat, StoreError};
use serde_json::{Value, json};

use super::setup::{Setup, log_in, node};
use crate::support::client::http;
use crate::support::make::{NODE_A, NODE_B, claim_by, heartbeat};
use crate::support::postgres::{self, Server};
use crate::support::process::Process;
use crate::support::{required, until};

const NO_LEASES: &[LeaseKey] = &[];

fn claim_of(node: NodeId, processor: ProcessorKind) -> ClaimRequest {
    ClaimRequest {
        processor: Some(processor),
        ..claim_by(node, 1)
    }
}

fn heartbeat_of(node: NodeId, processor: ProcessorKind) -> Heartbeat {
    Heartbeat {
        processor: Some(processor),
        ..heartbeat(node, NO_LEASES)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_processor_starts_nothing_while_others_are_alive() {
    for ordering in [None, Some(Ordering::by_user(OnFailure::Skip))] {
        let Some(setup) = Setup::new().await else { return };
        if ordering.is_some() {
            let switch = "update orderly.queue set ordering = 1";
            setup.admin.batch_execute(switch).await.unwrap();
        }
        let store = &setup.store;
        for user in 1..=3 {
            let order = crate::support::make::order_of(user);
            store.accept([order].into(), None).await.unwrap();
        }
        store
            .renew(heartbeat_of(NODE_B, ProcessorKind::Http))
            .await
            .unwrap();
        let claimed = store.claim(claim_of(NODE_B, ProcessorKind::Http)).await.unwrap();
        assert_eq!(claimed.leases.len(), 1, "the only node may claim");
        store
            .renew(heartbeat_of(NODE_B, ProcessorKind::Http))
            .await
            .unwrap();
        store
            .renew(heartbeat_of(NODE_A, ProcessorKind::Simulated))
            .await
            .unwrap();
        let refused = store.claim(claim_of(NODE_A, ProcessorKind::Simulated)).await;
        let text = match &refused {
            Err(StoreError::Unavailable { source, .. }) => source.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(
            text.contains(
                "ORDERLY_PROCESSOR is http on other live nodes of this store and simulated on this one"
            ),
            "{text}"
        );
        let nodes = store.queue().await.unwrap().nodes;
        let listed_node = |node| nodes.iter().find(|listed| listed.node == node).unwrap();
        let (simulated, http) = (listed_node(NODE_A), listed_node(NODE_B));
        assert_eq!(
            (simulated.processor, simulated.agrees),
            (Some(ProcessorKind::Simulated), false)
        );
        assert_eq!((http.processor, http.agrees), (Some(ProcessorKind::Http), true));
        // Nodes that agree continue.
        let claimed = store.claim(claim_of(NODE_B, ProcessorKind::Http)).await.unwrap();
        assert_eq!(claimed.leases.len(), 1);
        store
            .settle(claimed.leases[0].key(), Outcome::COMPLETED)
            .await
            .unwrap();
        store
            .leave(NODE_B, orderly::store::Leaving::ToStop)
            .await
            .unwrap();
        let claimed = store
            .claim(claim_of(NODE_A, ProcessorKind::Simulated))
            .await
            .unwrap();
        assert_eq!(claimed.leases.len(), 1);
        assert!(store.queue().await.unwrap().nodes.iter().all(|node| node.agrees));
        setup.end().await;
    }
}

/// The disagreement shows in HTTP answers, in the log and in `doctor`.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_left_at_simulated_completes_nothing_and_reports_it() {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut command = node(folders[0].path(), &database.url());
    command.env("ORDERLY_PROCESSOR", "pull");
    let pulling = Process::start(command).await;
    let queue = async |node: &Process| -> Value {
        let answer = http().get(format!("{}/queue", node.url)).send().await.unwrap();
        answer.json().await.unwrap()
    };
    until("the first node may start orders", async || {
        queue(&pulling).await["nodes"][0]["starts_orders"] == true
    })
    .await;
    let left = Process::start(node(folders[1].path(), &database.url())).await;
    let order = json!({"user_id": 1, "item_ids": [1], "total_amount": 1});
    let accepted = http()
        .post(format!("{}/orders", left.url))
        .json(&order)
        .send()
        .await
        .unwrap();
    assert_eq!(accepted.status(), 201);
    until("the node logs that it starts nothing", async || {
        let queue = queue(&left).await;
        let nodes = queue["nodes"].as_array().unwrap().clone();
        nodes
            .iter()
            .any(|node| node["processor"] == "simulated" && node["starts_orders"] == false)
    })
    .await;
    let mut doctor = node(folders[1].path(), &database.url());
    doctor.args(["doctor", "--json"]);
    let said = doctor.output().await.unwrap();
    assert_eq!(said.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let checks = said["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|check| check["name"] == "node-differs")
        .unwrap();
    assert_eq!(check["state"], "fail", "{check}");
    assert!(
        check["finding"]
            .as_str()
            .unwrap()
            .contains("ORDERLY_PROCESSOR=simulated"),
        "{check}"
    );
    // An external worker still gets the order.
    let taken = http()
        .post(format!("{}/leases", pulling.url))
        .json(&json!({"wait": 30}))
        .send();
    let taken: Value = taken.await.unwrap().json().await.unwrap();
    assert_eq!(taken["leases"][0]["order"]["order_id"], 1, "{taken}");
    assert_eq!(left.terminate().await, Some(0));
    assert_eq!(pulling.terminate().await, Some(0));
    let said = log_in(folders[1].path());
    let line = |line: &&Value| {
        line.to_string()
            .contains("this one starts no order until they are gone")
    };
    assert_eq!(said.iter().filter(line).count(), 1, "{said:?}");
}
