//! Failovers (issue 15, point 2). Without a lost tail, clients and workers notice nothing. With one, nothing of the tail is given
//! out again.

use std::collections::HashSet;
use std::sync::Arc;

use orderly::epoch::AttemptKey;
use orderly::lease::{Lease, Outcome, ProcessorKind};
use orderly::order::OrderId;
use orderly::store::{ClaimRequest, FEED_EVENTS_MAX, FeedCursor, SettledExternal, Store};

use super::setup::{assert_sound, store_at};
use crate::support::make::{NODE_A, claim_by, new_order};
use crate::support::postgres::{self, Pair, Stop, TestDatabase};
use crate::support::required;

/// Ids, keys, tokens and cursors that clients, workers and services have seen.
struct Seen {
    ids: HashSet<OrderId>,
    leases: Vec<Lease>,
    cursor: FeedCursor,
}

impl Seen {
    /// Accepts three orders and leases all Pending ones.
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
    let settled = store.settle_external(id, lease.token, Outcome::Released).await;
    matches!(settled.unwrap(), SettledExternal::Done(_))
}

async fn is_valid(store: &dyn Store, cursor: FeedCursor) -> bool {
    let page = store.events_after(Some(cursor.position), FEED_EVENTS_MAX).await;
    page.unwrap().bounds.contain(cursor)
}

struct FailoverFixture {
    pair: Pair,
    database: TestDatabase,
    store: Arc<dyn Store>,
}

async fn fixture() -> Option<FailoverFixture> {
    if !required(
        "a private PostgreSQL with a standby",
        postgres::is_installed_with_standby(),
    ) {
        return None;
    }
    let pair = Pair::start().await;
    let database = pair.primary.create_database().await;
    let store = store_at(&database.url()).await;
    Some(FailoverFixture {
        pair,
        database,
        store,
    })
}

impl FailoverFixture {
    /// Kills the primary and promotes the standby. Returns a store on the new primary.
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
async fn a_lossless_failover_keeps_leases_keys_and_cursors() {
    let Some(mut fixture) = fixture().await else {
        return;
    };
    let before = Seen::of(&*fixture.store).await;
    fixture.pair.caught_up().await;
    fixture.fail_over().await;
    let store = &*fixture.store;
    let after = Seen::of(store).await;
    assert!(after.ids.is_disjoint(&before.ids));
    assert!(is_valid(store, before.cursor).await && is_valid(store, after.cursor).await);
    for lease in &before.leases {
        assert!(settled(store, lease, lease.order.order_id).await, "{lease:?}");
    }
    let again = Seen::of(store).await;
    assert!(again.keys().is_superset(&before.keys()));
    let fences = |seen: &Seen| seen.leases.iter().map(|lease| lease.fence).collect::<Vec<_>>();
    assert!(fences(&again).iter().min() > fences(&before).iter().max());
    fixture.end().await;
}

async fn lost_tail(with_epoch: bool) {
    let Some(mut fixture) = fixture().await else {
        return;
    };
    let before = Seen::of(&*fixture.store).await;
    fixture.pair.caught_up().await;
    fixture.pair.standby.stop(Stop::Fast).await;
    let alice = Seen::of(&*fixture.store).await;
    fixture.store.close().await;
    fixture.pair.primary.stop(Stop::Killed).await;
    fixture.pair.standby.start_again().await;
    fixture.pair.promote().await;
    let on_standby = fixture.database.on(&fixture.pair.standby);
    if !with_epoch {
        // Makes the store take the promoted server for the one it knows.
        let admin = on_standby.admin().await;
        let same = "update orderly.epochs set timeline = (select timeline from orderly.server_life())";
        admin.batch_execute(same).await.unwrap();
        // The replicated log is a few numbers ahead of the sequences.
        let ids = format!("select setval('orderly.order_ids', {})", before.ids.len());
        admin.batch_execute(&ids).await.unwrap();
    }
    fixture.store = store_at(&on_standby.url()).await;
    let store = &*fixture.store;
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
        !is_valid(store, alice.cursor).await,
    );
    let right = with_epoch;
    assert_eq!(found, (right, right, right, right));
    assert!(is_valid(store, before.cursor).await, "the standby has this event");
    for lease in &before.leases {
        assert!(settled(store, lease, lease.order.order_id).await, "{lease:?}");
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_lost_tail_is_given_out_twice() {
    lost_tail(true).await;
}

/// The control: without a new epoch, numbers of the lost tail are given out again.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_new_epoch_a_lost_tail_is_given_out_twice() {
    lost_tail(false).await;
}
