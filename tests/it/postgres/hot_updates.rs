//! Ending an attempt is a heap-only (HOT) update of the order's row: it writes no index entry.

use futures_util::future::join_all;
use orderly::lease::Outcome;
use orderly::order::BATCH_ORDERS_MAX;

use super::setup::{Setup, assert_sound};
use crate::support::make::{NODE_A, claim_by, new_order};
use crate::support::until;

const BATCHES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn ending_an_attempt_writes_no_index_entry_of_orders() {
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    for _ in 0..BATCHES {
        let orders = vec![new_order(); BATCH_ORDERS_MAX];
        store.accept(orders.into(), None).await.unwrap();
        let mut ended = 0;
        while ended < BATCH_ORDERS_MAX {
            let leases = store.claim(claim_by(NODE_A, 100)).await.unwrap().leases;
            ended += leases.len();
            let ends = leases
                .iter()
                .map(|lease| store.settle(lease.key(), Outcome::COMPLETED));
            for end in join_all(ends).await {
                end.unwrap();
            }
        }
    }
    let orders = i64::try_from(BATCHES * BATCH_ORDERS_MAX).unwrap();
    // A session reports its statistics when it ends.
    assert_sound(&**store).await;
    store.close().await;
    let updates = "select n_tup_upd from pg_stat_user_tables where relid = 'orderly.orders'::regclass";
    until("the updates are counted", async || {
        setup.number(updates).await >= orders
    })
    .await;
    let hot = setup.number(&updates.replace("n_tup_upd", "n_tup_hot_upd")).await;
    let updates = setup.number(updates).await;
    assert_eq!(updates, orders, "each order is written once after it is accepted");
    assert!(hot * 10 >= updates * 9, "{hot} of {updates}");
}
