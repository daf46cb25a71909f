//! Epochs that do not follow each other, and claims of none.

use super::*;
use crate::epoch::{EpochIdentity, FENCE_BITS};
use crate::store::{Epoch, FeedPosition, first_epoch};

fn second() -> Epoch {
    Epoch {
        number: 3,
        identity: EpochIdentity(3),
        first_order_id: OrderId(8),
        after: FeedPosition(20),
        ..first_epoch()
    }
}

async fn with(second: Epoch) -> Vec<(Promise, Option<i64>)> {
    let mut hand = sound();
    hand.epochs = vec![first_epoch(), second];
    found(hand).await
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
            first_order_id: OrderId(11),
            ..second()
        },
        Epoch {
            first_order_id: OrderId(0),
            ..second()
        },
    ];
    for epoch in wrong {
        assert_eq!(with(epoch.clone()).await, [(Promise::Epochs, None)], "{epoch:?}");
    }
}

#[tokio::test]
async fn a_claim_of_an_unknown_epoch_is_found() {
    let fence = (2 << FENCE_BITS) + 1;
    check(
        |hand| hand.order(COMPLETED).fence = fence,
        Promise::Epochs,
        COMPLETED,
    )
    .await;
    let spoil = |hand: &mut Hand| hand.order(PROCESSING).lease.as_mut().unwrap().fence = fence;
    check(spoil, Promise::Epochs, PROCESSING).await;
}
