//! Mechanics of this driver that the trait does not show: separate connections for reads, and the limit of waiting orders.

use super::*;
use crate::metrics::Metrics;
use crate::money::Money;
use crate::order::{BATCH_ORDERS_MAX, Items, NewOrder, UserId};
use crate::store::clock::system_clock;
use crate::store::{ORDERS_WAITING_MAX, Prune, Store};

mod batching;
mod second_server;

pub(super) fn batch() -> Arc<[NewOrder]> {
    let order = NewOrder {
        user_id: UserId::Number(1),
        items: Items::of_ids(&[1]).unwrap(),
        total_amount: Money::parse("1", 2).unwrap(),
        currency: None,
        reference: None,
        metadata: None,
        start_after: None,
        deadline: None,
        hold: None,
    };
    vec![order; BATCH_ORDERS_MAX].into()
}

fn store_at(path: &Path) -> Sqlite {
    let options = OpenOptions {
        peers: None,
        migrate: true,
        pending_max: None,
        metrics: Metrics::new(),
        clock: system_clock(),
        ordering: None,
    };
    Sqlite::open(path, options).unwrap()
}

/// Issue 13, point 28.
#[tokio::test]
async fn slow_listings_do_not_delay_pause_queue_or_feed() {
    const LISTS: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let store = store_at(&folder.path().join("orders.db"));
    let (ends, waits): (Vec<_>, Vec<_>) = (0..LISTS).map(|_| std::sync::mpsc::channel::<()>()).unzip();
    let mut lists = Vec::new();
    for wait in waits {
        let readers = store.readers.clone();
        lists.push(tokio::spawn(async move {
            readers
                .read(ReadKind::List, "list", move |_| Ok(wait.recv().is_err()))
                .await
        }));
        tokio::task::yield_now().await;
    }
    store.pause(None).await.unwrap();
    assert!(store.queue().await.unwrap().pause.is_some());
    store.counters().await.unwrap();
    store.events_after(None, 10).await.unwrap();
    let sweep = Prune {
        older_than: std::time::Duration::from_secs(1),
        after: None,
    };
    store.prune(sweep).await.unwrap();
    assert!(lists.iter().all(|list| !list.is_finished()));
    drop(ends);
    for list in lists {
        assert!(list.await.unwrap().unwrap());
    }
    store.close().await;
}

/// Orders that wait for the writer count until they are stored or refused, even if the client hangs up.
#[tokio::test]
async fn orders_of_disconnected_clients_still_count_as_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let store = store_at(&path);
    let lock = rusqlite::Connection::open(&path).unwrap();
    lock.execute_batch("begin immediate").unwrap();
    let mut accepted = 0;
    let refused = loop {
        let mut accept = Box::pin(store.accept(batch(), None));
        match futures_util::poll!(&mut accept) {
            std::task::Poll::Pending => accepted += 1,
            std::task::Poll::Ready(answer) => break answer,
        }
        assert!(
            accepted * BATCH_ORDERS_MAX <= ORDERS_WAITING_MAX,
            "waiting orders have no limit"
        );
    };
    assert!(matches!(refused, Err(StoreError::Busy)), "{refused:?}");
    assert_eq!(accepted, ORDERS_WAITING_MAX / BATCH_ORDERS_MAX);
    drop(lock);
    store.close().await;
}
