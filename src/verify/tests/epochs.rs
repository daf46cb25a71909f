//! Epochs that do not follow each other, and claims of unknown epochs.

use super::*;
use crate::epoch::{EpochIdentity, FENCE_BITS};
use crate::store::{Epoch, FeedPosition, first_epoch};

fn second() -> Epoch {
    Epoch {
        number: 3,
        identity: EpochIdentity(3),
        first_order_id: OrderId(NEW + 1),
        after: FeedPosition(20),
        ..first_epoch()
    }
}

async fn with(second: Epoch) -> Vec<(Promise, Option<i64>)> {
    let mut store = sound();
    store.epochs = vec![first_epoch(), second];
    found(store).await
}

#[tokio::test]
async fn epochs_that_do_not_follow_each_other_are_found() {
    assert_eq!(with(second()).await, []);
    let wrong = [
        Epoch {
            identity: first_epoch().identity,
            ..second()
        },
        Epoch {
            after: FeedPosition(31),
            ..second()
        },
        Epoch {
            first_order_id: OrderId(NEW + 2),
            ..second()
        },
        Epoch {
            first_order_id: OrderId(0),
            ..second()
        },
    ];
    for epoch in wrong {
        let mut found = with(epoch.clone()).await;
        // If the epoch begins with an order already claimed, its claims are breaches too.
        found.retain(|(_, order_id)| order_id.is_none());
        assert_eq!(found, [(Promise::Epochs, None)], "{epoch:?}");
    }
}

#[tokio::test]
async fn a_claim_of_an_unknown_epoch_is_found() {
    let fence = (2 << FENCE_BITS) + 1;
    check(
        |store| store.order(COMPLETED).fence = fence,
        Promise::Epochs,
        COMPLETED,
    )
    .await;
    let spoil = |store: &mut FakeStore| store.order(PROCESSING).lease.as_mut().unwrap().fence = fence;
    check(spoil, Promise::Epochs, PROCESSING).await;
}

#[tokio::test]
async fn a_claim_of_an_epoch_before_the_acceptance_is_found() {
    let accepted_in = |first_order_id| async move {
        with(Epoch {
            first_order_id: OrderId(first_order_id),
            ..second()
        })
        .await
    };
    // This order is not claimed yet.
    assert_eq!(accepted_in(NEW).await, []);
    assert_eq!(
        accepted_in(PROCESSING).await,
        [(Promise::Epochs, Some(PROCESSING))]
    );
}
