//! A standby that takes over: with everything, which costs nobody anything, and without the tail that was never sent to it, of
//! which nothing is given out again (issue 15, point 2).

use std::collections::HashSet;
use std::sync::Arc;

use orderly::epoch::AttemptKey;
use orderly::lease::{Lease, Outcome, ProcessorKind};
use orderly::order::OrderId;
use orderly::store::{ClaimRequest, FEED_EVENTS_MAX, FeedCursor, SettledOutside, Store};

use super::scene::{assert_sound, store_at};
use crate::support::make::{NODE_A, claim_by, new_order};
use crate::support::postgres::{self, Pair, Stop, TestDatabase};
use crate::support::required;

/// What clients, workers and services of a store have seen.
struct Seen {
    ids: HashSet<OrderId>,
    leases: Vec<Lease>,
    cursor: FeedCursor,
}

impl Seen {
    /// Three orders come, and workers take all that wait.
    async fn of(store: &dyn Store) -> Seen {
        let orders = vec![new_order(); 3];
        let ids = store.accept(orders.into(), None).await.unwrap().order_ids;
        let request = ClaimRequest {
            processor: Some(ProcessorKind::Http),
            ..claim_by(NODE_A, 10)
        };
        let leases = store.claim(request).await.unwrap().leases;
        let page = store.events_after(None, FEED_EVENTS_MAX).await.unwrap();
        Seen {
            ids: ids.into_iter().collect(),
            leases,
            cursor: page.bounds.cursor(page.bounds.last),
        }
    }

    fn keys(&self) -> HashSet<AttemptKey> {
        self.leases.iter().map(|lease| lease.attempt_key).collect()
    }
}

async fn settled(store: &dyn Store, lease: &Lease, id: OrderId) -> bool {
    let settled = store.settle_outside(id, lease.token, Outcome::Released).await;
    matches!(settled.unwrap(), SettledOutside::Done(_))
}

async fn holds(store: &dyn Store, cursor: FeedCursor) -> bool {
    let page = store.events_after(Some(cursor.position), FEED_EVENTS_MAX).await;
    page.unwrap().bounds.contain(cursor)
}

struct Scene {
    pair: Pair,
    database: TestDatabase,
    store: Arc<dyn Store>,
}

async fn scene() -> Option<Scene> {
    if !required(
        "a private PostgreSQL with a standby",
        postgres::is_installed_with_standby(),
    ) {
        return None;
    }
    let pair = Pair::start().await;
    let database = pair.primary.create_database().await;
    let store = store_at(&database.url()).await;
    Some(Scene {
        pair,
        database,
        store,
    })
}

impl Scene {
    /// Kills the primary and promotes the standby. Answers a node that works there.
    async fn fail_over(&mut self) {
        self.store.close().await;
        self.pair.primary.stop(Stop::Killed).await;
        self.pair.promote().await;
        self.store = store_at(&self.database.on(&self.pair.standby).url()).await;
    }

    async fn end(self) {
        assert_sound(&*self.store).await;
        self.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_without_loss_keeps_leases_keys_and_cursors() {
    let Some(mut scene) = scene().await else {
        return;
    };
    let before = Seen::of(&*scene.store).await;
    scene.pair.caught_up().await;
    scene.fail_over().await;
    let store = &*scene.store;
    let after = Seen::of(store).await;
    assert!(after.ids.is_disjoint(&before.ids));
    assert!(holds(store, before.cursor).await && holds(store, after.cursor).await);
    for lease in &before.leases {
        assert!(settled(store, lease, lease.order.order_id).await, "{lease:?}");
    }
    let again = Seen::of(store).await;
    assert!(again.keys().is_superset(&before.keys()));
    let fences = |seen: &Seen| seen.leases.iter().map(|lease| lease.fence).collect::<Vec<_>>();
    assert!(fences(&again).iter().min() > fences(&before).iter().max());
    scene.end().await;
}

async fn lost_tail(with_epoch: bool) {
    let Some(mut scene) = scene().await else {
        return;
    };
    let before = Seen::of(&*scene.store).await;
    scene.pair.caught_up().await;
    scene.pair.standby.stop(Stop::Fast).await;
    let alice = Seen::of(&*scene.store).await;
    scene.store.close().await;
    scene.pair.primary.stop(Stop::Killed).await;
    scene.pair.standby.start_again().await;
    scene.pair.promote().await;
    let on_standby = scene.database.on(&scene.pair.standby);
    if !with_epoch {
        // The store takes the promoted server for the one it knows.
        let admin = on_standby.admin().await;
        let same = "update orderly.epochs set timeline = (select timeline from orderly.server_life())";
        admin.batch_execute(same).await.unwrap();
        // Sequences are some numbers ahead in the log.
        let ids = format!("select setval('orderly.order_ids', {})", before.ids.len());
        admin.batch_execute(&ids).await.unwrap();
    }
    scene.store = store_at(&on_standby.url()).await;
    let store = &*scene.store;
    let bob = Seen::of(store).await;
    let mut lost_results = 0;
    for lease in &alice.leases {
        for order in &bob.leases {
            lost_results += usize::from(settled(store, lease, order.order.order_id).await);
        }
    }
    let found = (
        alice.ids.is_disjoint(&bob.ids),
        alice.keys().is_disjoint(&bob.keys()),
        lost_results == 0,
        !holds(store, alice.cursor).await,
    );
    let right = with_epoch;
    assert_eq!(found, (right, right, right, right));
    assert!(holds(store, before.cursor).await, "of what the standby had");
    for lease in &before.leases {
        assert!(settled(store, lease, lease.order.order_id).await, "{lease:?}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_lost_tail_is_given_twice() {
    lost_tail(true).await;
}

/// The control.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_epoch_a_lost_tail_is_given_twice() {
    lost_tail(false).await;
}
