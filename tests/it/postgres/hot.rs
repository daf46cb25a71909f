//! The end of an attempt changes the row of its order in place: it writes no entry of an index.

use futures_util::future::join_all;
use orderly::lease::Outcome;
use orderly::order::BATCH_ORDERS_MAX;

use super::scene::{Scene, assert_sound};
use crate::support::make::{NODE_A, claim_by, new_order};
use crate::support::until;

const BATCHES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_attempt_writes_no_index_of_the_orders() {
    let Some(scene) = Scene::new().await else { return };
    let store = &scene.store;
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
    // Sessions that end tell what they did.
    assert_sound(&**store).await;
    store.close().await;
    let updates = "select n_tup_upd from pg_stat_user_tables where relid = 'orderly.orders'::regclass";
    until("the updates are counted", async || {
        scene.number(updates).await >= orders
    })
    .await;
    let hot = scene.number(&updates.replace("n_tup_upd", "n_tup_hot_upd")).await;
    let updates = scene.number(updates).await;
    assert_eq!(updates, orders, "each order is written once after it is accepted");
    assert!(hot * 10 >= updates * 9, "{hot} of {updates}");
}
