//! Two servers on one file that bypassed the server lock.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Sqlite, lock};
use super::batch;
use crate::lease::NodeId;
use crate::metrics::Metrics;
use crate::store::clock::system_clock;
use crate::store::opening::OpenOptions;
use crate::store::{Breaker, Heartbeat, NodeReport, Store, StoreError, StoreHealth};

const CRASHES_MAX: u32 = 5;

fn open(path: &Path, lock_of: &Path) -> Sqlite {
    let options = OpenOptions {
        peers: None,
        migrate: true,
        pending_max: None,
        metrics: Metrics::new(),
        clock: system_clock(),
        ordering: None,
    };
    Sqlite::open_locked(path, options, Arc::new(lock::lock_as(path, lock_of).unwrap())).unwrap()
}

fn heartbeat(node: u64) -> Heartbeat {
    Heartbeat {
        node: NodeId(node),
        slots: 1,
        busy: 0,
        leases: Vec::new(),
        lease: Duration::from_secs(30),
        breaker: Breaker::Closed,
        processor: None,
        report: NodeReport::default(),
    }
}

/// Issue 13, point 4.
#[tokio::test]
async fn the_later_of_two_servers_on_one_file_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let first = open(&path, &path);
    first.join(heartbeat(1), CRASHES_MAX).await.unwrap();
    let second = open(&path, &folder.path().join("elsewhere.db"));
    second.join(heartbeat(2), CRASHES_MAX).await.unwrap();
    second.renew(heartbeat(2)).await.unwrap();
    first.renew(heartbeat(1)).await.unwrap();
    let refused = second.renew(heartbeat(2)).await;
    // The group commits before the store is declared broken, so the outcome is unknown.
    assert!(refused.is_err(), "{refused:?}");
    assert!(second.failed().await.contains("another server"));
    let accepted = second.accept(batch(), None).await;
    assert!(matches!(accepted, Err(StoreError::Unavailable { .. })));
    first.renew(heartbeat(1)).await.unwrap();
    assert_eq!(first.health(), StoreHealth::Ready);
    second.close().await;
    first.close().await;
}

#[tokio::test]
async fn two_connections_never_assign_the_same_order_id() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let first = open(&path, &path);
    let second = open(&path, &folder.path().join("elsewhere.db"));
    let mut given = Vec::new();
    for store in [&first, &second, &first, &second] {
        given.extend(store.accept(batch(), None).await.unwrap().order_ids);
    }
    let count = given.len();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), count);
    assert_eq!(first.counters().await.unwrap().pending, count as u64);
    second.close().await;
    first.close().await;
}
