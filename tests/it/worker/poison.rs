//! An external worker dies with several leases because of one of its orders (issue 13, point 6c): only that order is
//! poisoned.

use std::sync::Arc;
use std::time::Duration;

use orderly::lease::{Lease, Outcome};
use orderly::order::{OrderId, OrderStatus};
use orderly::pull::{LeaseRequests, Wanted};

use super::world::{LEASE, Setting, World};

const PULL: Setting = Setting {
    slots: 0,
    attempts_max: 3,
    attempt_timeout: Duration::from_mins(5),
    rate_limit: None,
    idle_sleep: false,
    retention: None,
};
/// Each thread takes one order.
const THREADS: usize = 4;
const ROUNDS_MAX: usize = 100;

/// Takes a lease for one thread of the worker.
async fn take(world: &World, requests: &Arc<LeaseRequests>) -> Option<Lease> {
    let wanted = Wanted {
        orders_max: 1,
        wait: Duration::ZERO,
        lease: LEASE,
    };
    let requests = requests.clone();
    let asking = tokio::spawn(async move { requests.take(wanted).await.unwrap().into_leases().pop() });
    world.until("an answer", async |_| asking.is_finished()).await;
    asking.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_order_that_kills_its_worker_poisons_no_other_order() {
    let (world, requests) = World::with_lease_requests(PULL, |store| store).await;
    let ids = world.harness.accept_some(THREADS).await;
    let deadly = ids[1];
    let mut rounds = 0;
    while world.harness.counters().await.active() > 0 {
        rounds += 1;
        assert!(rounds < ROUNDS_MAX, "the order is never poisoned");
        let mut taken = Vec::new();
        for _ in 0..THREADS {
            taken.extend(take(&world, &requests).await);
        }
        if taken.iter().any(|lease| lease.order.order_id == deadly) {
            // The whole worker process dies.
            world
                .pass_long(LEASE + Duration::from_secs(10), async |_| {})
                .await;
            continue;
        }
        for lease in taken {
            world.harness.settle(&lease, Outcome::COMPLETED).await;
        }
        world.pass(Duration::from_secs(2)).await;
    }
    let is_poison = |id: &OrderId| *id == deadly;
    for id in &ids {
        let status = world.harness.order(*id).await.status;
        let expected = if is_poison(id) {
            OrderStatus::Failed
        } else {
            OrderStatus::Completed
        };
        assert_eq!(status, expected, "{id}");
    }
    drop(requests);
    world.end().await;
}
