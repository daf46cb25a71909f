//! Turns on a shared store: nodes with different orderings, concurrent changes, and locked turns.

use orderly::lease::Outcome;
use orderly::order::{OnFailure, OrderId, Ordering};
use orderly::store::open::{OpenOptions, open};
use orderly::store::{RedriveOptions, StoreError};

use super::setup::{Setup, database_at, store_at};
use crate::support::make::{NODE_A, NODE_B, claim_by, failed, heartbeat, order_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_ordering_starts_nothing_while_others_are_alive() {
    let Some(setup) = Setup::new().await else { return };
    // A node without the setting uses the stored ordering, which has no turns.
    setup.store.renew(heartbeat(NODE_B, &[])).await.unwrap();
    let options = OpenOptions {
        peers: None,
        migrate: true,
        pending_max: None,
        metrics: orderly::metrics::Metrics::new(),
        clock: orderly::store::clock::system_clock(),
        ordering: Some(Ordering::by_user(OnFailure::Skip)),
    };
    let with_setting = open(&database_at(&setup.database.url()), options).await.unwrap();
    with_setting
        .accept(vec![order_of(1); 2].into(), None)
        .await
        .unwrap();
    let refused = with_setting.claim(claim_by(NODE_A, 10)).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable { source, .. }) if source.to_string().contains("ORDERLY_ORDERING")),
        "{refused:?}"
    );
    let accepted = with_setting.accept([order_of(2)].into(), None).await.unwrap();
    setup
        .store
        .leave(NODE_B, orderly::store::Leaving::ToStop)
        .await
        .unwrap();
    let leases = with_setting.claim(claim_by(NODE_A, 10)).await.unwrap().leases;
    let started: Vec<_> = leases.iter().map(|lease| lease.order.order_id).collect();
    assert_eq!(started.len(), 2, "one of each user: {started:?}");
    assert_eq!(started[1], accepted.order_ids[0]);
    // A node without the setting now uses the new ordering.
    let leases = setup.store.claim(claim_by(NODE_B, 10)).await.unwrap().leases;
    assert_eq!(leases.len(), 0);
    with_setting.close().await;
    setup.end().await;
}

/// Few users, so that redrives and cancels often meet claims that pass the turn.
const USERS: i64 = 12;
const ORDERS_OF_EACH: usize = 6;
const ROUNDS: usize = 60;

/// A change between a claim's snapshot and its lock on a row must not be lost: eventually each order gets its turn.
#[tokio::test(flavor = "multi_thread")]
async fn no_turn_is_lost_among_concurrent_claims_redrives_and_cancels() {
    let Some(setup) = Setup::new().await else { return };
    setup
        .admin
        .batch_execute("update orderly.queue set ordering = 1")
        .await
        .unwrap();
    let store = &setup.store;
    for _ in 0..ORDERS_OF_EACH {
        let orders: Vec<_> = (1..=USERS).map(order_of).collect();
        store.accept(orders.into(), None).await.unwrap();
    }
    let last = USERS * i64::try_from(ORDERS_OF_EACH).unwrap();
    let ids = || (1..=last).map(OrderId);
    // Other nodes, so that these calls do not queue behind the claims.
    let others = store_at(&setup.database.url()).await;
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
                    others.redrive(id, RedriveOptions::default()).await.unwrap();
                }
            }
        },
        async {
            for _ in 0..ROUNDS / 20 {
                for id in ids() {
                    store.cancel(id, None).await.unwrap();
                }
            }
        },
    );
    tokio::join!(claiming, taking_up, cancelling);
    // Without concurrent changes, all orders that can start are started one after another.
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
    assert_eq!(setup.number(waiting).await, 0, "{ended} were started in the end");
    others.close().await;
    setup.end().await;
}

/// More changes of one user than one claim handles, while another session has locked the order that would get the turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_turn_of_one_user_delays_no_other_user() {
    let Some(setup) = Setup::new().await else { return };
    let by_user = "update orderly.queue set ordering = 1";
    setup.admin.batch_execute(by_user).await.unwrap();
    // The first claim reads the stored ordering.
    setup.store.claim(claim_by(NODE_A, 10)).await.unwrap();
    let first = setup.store.accept([order_of(1)].into(), None).await.unwrap();
    let lock = format!(
        "begin; select from orderly.blocked where order_id = {} for update",
        first.order_ids[0]
    );
    let outsider = setup.database.admin().await;
    outsider.batch_execute(&lock).await.unwrap();
    // Each call leaves one change for the claims.
    let changes = "insert into orderly.unseen (user_id) select 1 from generate_series(1, 1200)";
    setup.admin.batch_execute(changes).await.unwrap();
    let other = setup.store.accept([order_of(2)].into(), None).await.unwrap();
    let mut started = Vec::new();
    for _ in 0..4 {
        let leases = setup.store.claim(claim_by(NODE_A, 10)).await.unwrap().leases;
        started.extend(leases.iter().map(|lease| lease.order.order_id));
    }
    assert_eq!(started, other.order_ids);
    assert_eq!(setup.number("select count(*) from orderly.unseen").await, 1);
    outsider.batch_execute("rollback").await.unwrap();
    let leases = setup.store.claim(claim_by(NODE_A, 10)).await.unwrap().leases;
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].order.order_id, first.order_ids[0]);
    setup.end().await;
}

/// More changes of one user than one claim handles, before a change of another user.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_leaves_turns_to_pass_requests_another_at_once() {
    let Some(setup) = Setup::new().await else { return };
    setup
        .admin
        .batch_execute("update orderly.queue set ordering = 1")
        .await
        .unwrap();
    // The first claim reads the stored ordering.
    assert!(
        setup
            .store
            .claim(claim_by(NODE_A, 10))
            .await
            .unwrap()
            .leases
            .is_empty()
    );
    setup
        .store
        .accept(vec![order_of(1); 2].into(), None)
        .await
        .unwrap();
    // Each call leaves one change for the claims.
    let changes = "insert into orderly.unseen (user_id) select 1 from generate_series(1, 900)";
    setup.admin.batch_execute(changes).await.unwrap();
    let other = setup.store.accept([order_of(2)].into(), None).await.unwrap();
    let claimed = setup.store.claim(claim_by(NODE_A, 10)).await.unwrap();
    assert_eq!(claimed.leases.len(), 1);
    assert_eq!(claimed.next_due_in, Some(std::time::Duration::ZERO));
    let claimed = setup.store.claim(claim_by(NODE_A, 10)).await.unwrap();
    let started: Vec<_> = claimed.leases.iter().map(|lease| lease.order.order_id).collect();
    assert_eq!(started, other.order_ids);
    assert_eq!(claimed.next_due_in, None);
    setup.end().await;
}
