//! Tests of the oracle: true evidence is sound, and every falsification is noticed.

use std::time::Duration;

use orderly::lease::NodeId;

use super::Evidence;
use crate::cluster::faults::Silence;
use crate::cluster::load::{LoadSource, Urls, Workload};
use crate::cluster::nodes::Cluster;
use crate::support::until;

const ORDERS: Workload = Workload {
    name: "order",
    orders: 3,
    long_share: 0.0,
    cancelled_share: 0.0,
};

/// A few orders, one after another, on one node.
async fn ordinary() -> Option<Evidence> {
    let cluster = Cluster::new(&[]).await?;
    let node = cluster.start().await;
    let urls = Urls::default();
    urls.open(node.url());
    let source = LoadSource::new(&urls, ORDERS, 1);
    source.demand(ORDERS.orders);
    source.run(1).await;
    until("all orders have ended", async || node.open_orders().await == 0).await;
    Some(Evidence {
        accepted_orders: source.accepted_orders(),
        silences: Vec::new(),
        records: cluster.records().await,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_notices_every_kind_of_falsified_evidence() {
    type Change = fn(&mut Evidence);
    let Some(evidence) = ordinary().await else { return };
    assert_eq!(evidence.breaches(), [""; 0]);
    let changes: [(&str, Change); 8] = [
        ("lost", |evidence| drop(evidence.records.remove(0))),
        ("duplicated", |evidence| drop(evidence.accepted_orders.remove(0))),
        ("diverged", |evidence| {
            evidence.accepted_orders[0].body["user_id"] = 999.into();
        }),
        ("cancelled", |evidence| {
            evidence.accepted_orders[0].cancelled = true;
        }),
        ("ended", |evidence| {
            let events = &mut evidence.records[0].events;
            events.extend(events.last().cloned());
        }),
        ("fenced", |evidence| {
            let completed = evidence.records[0].events.last_mut().unwrap();
            completed.event.node = Some(NodeId(1));
        }),
        ("fifo", |evidence| {
            let before_all = evidence.accepted_orders[0]
                .sent
                .checked_sub(Duration::from_secs(1));
            evidence.accepted_orders[2].answered = before_all.expect("the machine has been up for longer");
        }),
        ("takeover", |evidence| {
            let [_, started, completed] = &mut evidence.records[0].events[..] else {
                panic!("the order was accepted, started and completed");
            };
            completed.event.at = completed.event.at.plus(Duration::from_hours(1));
            evidence.silences.push(Silence {
                node: started.event.node.unwrap(),
                from: started.event.at,
                until: None,
            });
        }),
    ];
    for (promise, change) in changes {
        let mut tampered = evidence.clone();
        change(&mut tampered);
        let breaches = tampered.breaches();
        assert!(
            breaches.iter().any(|breach| breach.starts_with(promise)),
            "{promise}: {breaches:?}"
        );
    }
}
