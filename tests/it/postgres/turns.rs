//! Nodes that were told different things about the orders of a user.

use orderly::order::{OnFailure, Ordering};
use orderly::store::StoreError;
use orderly::store::open::{OpenOptions, open};

use super::scene::{Scene, database_at};
use crate::support::make::{NODE_A, NODE_B, claim_by, heartbeat, order_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_told_otherwise_starts_nothing_until_the_others_are_gone() {
    let Some(scene) = Scene::new().await else { return };
    // Goes by what the store says, which is that no order waits for another.
    scene.store.renew(heartbeat(NODE_B, &[])).await.unwrap();
    let options = OpenOptions {
        migrate: true,
        pending_max: None,
        metrics: orderly::metrics::Metrics::new(),
        clock: orderly::store::clock::system_clock(),
        ordering: Some(Ordering::User(OnFailure::Skip)),
    };
    let told = open(&database_at(&scene.database.url()), options).await.unwrap();
    told.accept(vec![order_of(1); 2].into(), None).await.unwrap();
    let refused = told.claim(claim_by(NODE_A, 10)).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable { source, .. }) if source.to_string().contains("ORDERLY_ORDERING")),
        "{refused:?}"
    );
    let accepted = told.accept([order_of(2)].into(), None).await.unwrap();
    scene.store.leave(NODE_B).await.unwrap();
    let leases = told.claim(claim_by(NODE_A, 10)).await.unwrap().leases;
    let started: Vec<_> = leases.iter().map(|lease| lease.order.order_id).collect();
    assert_eq!(started.len(), 2, "one of each user: {started:?}");
    assert_eq!(started[1], accepted.order_ids[0]);
    // The other, should it come back, is not told otherwise, and goes by what is.
    let leases = scene.store.claim(claim_by(NODE_B, 10)).await.unwrap().leases;
    assert_eq!(leases.len(), 0);
    told.close().await;
    scene.end().await;
}
