//! The ordering setting is not copied, and that of the target has no effect.

use orderly::order::{OnFailure, OrderStatus, Ordering};

use super::possible;
use crate::support::harness::ids_of;
use crate::support::harness::moved::migrate;
use crate::support::make::order_of;
use crate::support::postgres::Server;
use crate::support::{Harness, check};

from_every_store! {
    a_copy_ignores_the_ordering_of_the_target,
}

async fn a_copy_ignores_the_ordering_of_the_target(harness: Harness) {
    let ids = harness.accept([1, 1, 2].map(order_of).to_vec()).await;
    let by_user = Ordering::by_user(OnFailure::Skip);
    // An empty store that ordered users before.
    let target = Server::shared().await.create_database().await;
    migrate(&target).await;
    let went_by_user = "update orderly.queue set ordering = 1";
    target.admin().await.batch_execute(went_by_user).await.unwrap();
    let moved = harness.move_into(target).await;
    check(moved, async |copy: &mut Harness| {
        copy.reopen_with_ordering(by_user).await;
        assert_eq!(ids_of(&copy.claim(10).await), [ids[0], ids[2]]);
        assert_eq!(copy.order(ids[1]).await.status, OrderStatus::Pending);
    })
    .await;
}
