//! Long histories: an order with more events than its row holds continues its history in another table.

use orderly::verify;

use super::damage::TableCopy;
use crate::support::Harness;

const EVENTS_IN_HISTORY: &str = "select coalesce(sum(cardinality(events)), 0)::int8 from orderly.history";

async fn number(harness: &Harness, query: &str) -> i64 {
    let admin = harness.home().admin().await;
    admin.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_has_no_gaps_and_its_positions_rise() {
    let Some(harness) = Harness::postgres().await else {
        return;
    };
    let id = harness.eventful_order().await;
    let version = harness.order(id).await.version;
    assert!(number(&harness, EVENTS_IN_HISTORY).await > i64::from(version) / 2);
    for after in (0..version).step_by(7).chain([version - 1, version]) {
        let page = harness.store().history(id, after).await.unwrap().unwrap().events;
        let versions = page.iter().map(|event| event.event.version);
        assert!(versions.eq(after + 1..=version), "after {after}");
        assert!(
            page.is_sorted_by_key(|event| event.position) && page.is_sorted_by_key(|event| event.event.at)
        );
    }
    harness.assert_sound().await;
    // Removing the only order removes all events.
    assert_eq!(harness.prune_all().await, []);
    let left = "select (select count(*) from orderly.orders) + (select count(*) from orderly.history)
        + (select count(*) from orderly.batches)";
    assert_eq!(number(&harness, left).await, 0);
    harness.assert_sound().await;
    harness.store().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_damage_in_a_long_history() {
    let Some(harness) = Harness::postgres().await else {
        return;
    };
    harness.eventful_order().await;
    let copy = TableCopy::create(&harness).await;
    for tampering in [
        "delete from orderly.history where version = 2",
        "delete from orderly.history where version = (select max(version) from orderly.history)",
        "update orderly.history set version = version + 1 where version = (select max(version) from orderly.history)",
        "update orderly.history set events = events[2:] where version = 2",
        "update orderly.history set events[7].at = events[7].at + interval '1 second' where version = 2",
        "update orderly.history set events[7].kind = 2 where version = 2",
        "update orderly.history set events[7].batch = 1 where version = 2",
    ] {
        copy.tamper(tampering).await;
        let mut snapshot = harness.store().snapshot().await.unwrap();
        let report = verify::verify(&mut *snapshot).await.unwrap();
        let found = report
            .breaches
            .iter()
            .any(|breach| breach.detail.contains("its history and the feed differ"));
        assert!(found, "{tampering}: {report}");
        copy.restore().await;
    }
    harness.assert_sound().await;
    harness.store().close().await;
}
