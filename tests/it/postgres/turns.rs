//! Nodes that were told different things about the orders of a user.

use orderly::lease::Outcome;
use orderly::order::{OnFailure, OrderId, Ordering};
use orderly::store::StoreError;
use orderly::store::open::{OpenOptions, open};

use super::scene::{Scene, database_at, store_at};
use crate::support::make::{NODE_A, NODE_B, claim_by, failed, heartbeat, order_of};

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

/// Orders of a few users, which others take up again and cancel while claims decide whose turn it is.
const USERS: i64 = 12;
const ORDERS_OF_EACH: usize = 6;
const ROUNDS: usize = 60;

/// A change that comes between a claim's view and its hold on a row must not be forgotten: sooner or later each order has its
/// turn.
#[tokio::test(flavor = "multi_thread")]
async fn no_turn_is_lost_among_claims_redrives_and_cancels_at_the_same_time() {
    let Some(scene) = Scene::new().await else { return };
    scene
        .admin
        .batch_execute("update orderly.queue set ordering = 1")
        .await
        .unwrap();
    let store = &scene.store;
    for _ in 0..ORDERS_OF_EACH {
        let orders: Vec<_> = (1..=USERS).map(order_of).collect();
        store.accept(orders.into(), None).await.unwrap();
    }
    let last = USERS * i64::try_from(ORDERS_OF_EACH).unwrap();
    let ids = || (1..=last).map(OrderId);
    // Other nodes' connections, so that nothing is in line behind the claims.
    let others = store_at(&scene.database.url()).await;
    let (claiming, taking_up, cancelling) = (
        async {
            for _ in 0..ROUNDS {
                for lease in store.claim(claim_by(NODE_A, 100)).await.unwrap().leases {
                    store.settle(lease.key(), failed()).await.unwrap();
                }
            }
        },
        async {
            for _ in 0..ROUNDS / 6 {
                for id in ids() {
                    others.redrive(id).await.unwrap();
                }
            }
        },
        async {
            for _ in 0..ROUNDS / 20 {
                for id in ids() {
                    store.cancel(id).await.unwrap();
                }
            }
        },
    );
    tokio::join!(claiming, taking_up, cancelling);
    // With nobody in between, all that can start is started one after another.
    let mut ended = 0;
    loop {
        let leases = store.claim(claim_by(NODE_A, 100)).await.unwrap().leases;
        if leases.is_empty() {
            break;
        }
        ended += leases.len();
        for lease in leases {
            store.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
        }
    }
    let waiting = "select count(*) from orderly.orders where status = 0";
    assert_eq!(scene.number(waiting).await, 0, "{ended} were started in the end");
    others.close().await;
    scene.end().await;
}

/// More calls of one user than one claim sees to, while an outsider has locked the order whose turn it would be.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_turn_is_held_up_keeps_no_other_user_waiting() {
    let Some(scene) = Scene::new().await else { return };
    let by_user = "update orderly.queue set ordering = 1";
    scene.admin.batch_execute(by_user).await.unwrap();
    // The first one finds out by which ordering the store goes.
    scene.store.claim(claim_by(NODE_A, 10)).await.unwrap();
    let first = scene.store.accept([order_of(1)].into(), None).await.unwrap();
    let lock = format!(
        "begin; select from orderly.blocked where order_id = {} for update",
        first.order_ids[0]
    );
    let outsider = scene.database.admin().await;
    outsider.batch_execute(&lock).await.unwrap();
    // As many calls leave them.
    let changes = "insert into orderly.unseen (user_id) select 1 from generate_series(1, 1200)";
    scene.admin.batch_execute(changes).await.unwrap();
    let other = scene.store.accept([order_of(2)].into(), None).await.unwrap();
    let mut started = Vec::new();
    for _ in 0..4 {
        let leases = scene.store.claim(claim_by(NODE_A, 10)).await.unwrap().leases;
        started.extend(leases.iter().map(|lease| lease.order.order_id));
    }
    assert_eq!(started, other.order_ids);
    assert_eq!(scene.number("select count(*) from orderly.unseen").await, 1);
    outsider.batch_execute("rollback").await.unwrap();
    let leases = scene.store.claim(claim_by(NODE_A, 10)).await.unwrap().leases;
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].order.order_id, first.order_ids[0]);
    scene.end().await;
}

/// More changes of one user than one claim sees to, before one of another.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_did_not_see_to_all_asks_for_another_at_once() {
    let Some(scene) = Scene::new().await else { return };
    scene
        .admin
        .batch_execute("update orderly.queue set ordering = 1")
        .await
        .unwrap();
    // The first one finds out by which ordering the store goes.
    assert!(
        scene
            .store
            .claim(claim_by(NODE_A, 10))
            .await
            .unwrap()
            .leases
            .is_empty()
    );
    scene
        .store
        .accept(vec![order_of(1); 2].into(), None)
        .await
        .unwrap();
    // As many calls leave them.
    let changes = "insert into orderly.unseen (user_id) select 1 from generate_series(1, 900)";
    scene.admin.batch_execute(changes).await.unwrap();
    let other = scene.store.accept([order_of(2)].into(), None).await.unwrap();
    let claimed = scene.store.claim(claim_by(NODE_A, 10)).await.unwrap();
    assert_eq!(claimed.leases.len(), 1);
    assert_eq!(claimed.next_due_in, Some(std::time::Duration::ZERO));
    let claimed = scene.store.claim(claim_by(NODE_A, 10)).await.unwrap();
    let started: Vec<_> = claimed.leases.iter().map(|lease| lease.order.order_id).collect();
    assert_eq!(started, other.order_ids);
    assert_eq!(claimed.next_due_in, None);
    scene.end().await;
}
