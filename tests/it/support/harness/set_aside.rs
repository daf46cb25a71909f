//! Held and scheduled orders, and orders with deadlines.

use std::time::Duration;

use orderly::order::{Hold, Milestone, MilestoneName, NewOrder, Order, OrderId, Reason};
use orderly::store::{Fired, NewMilestone};

use super::{Harness, done, new_order};

impl Harness {
    pub async fn hold(&self, id: OrderId) -> Order {
        done(self.store().hold(id, None).await.unwrap())
    }

    pub async fn release(&self, id: OrderId) -> Order {
        done(self.store().release(id, None).await.unwrap())
    }

    pub async fn fire_timers(&self) -> Fired {
        self.store().fire_timers([].into()).await.unwrap()
    }

    /// An order that starts no earlier than after `span`.
    pub async fn scheduled(&self, span: Duration) -> NewOrder {
        NewOrder {
            start_after: Some(self.now().await.plus(span)),
            ..new_order()
        }
    }

    pub async fn accept_scheduled(&self, span: Duration) -> OrderId {
        self.accept(vec![self.scheduled(span).await]).await[0]
    }

    pub async fn accept_scheduled_of(&self, user_id: i64) -> OrderId {
        let order = NewOrder {
            user_id: user_id.into(),
            ..self.scheduled(Duration::from_mins(1)).await
        };
        self.accept(vec![order]).await[0]
    }

    /// Accepts an order with a deadline after `span`.
    pub async fn accept_due(&self, span: Duration) -> OrderId {
        let deadline = Some(self.now().await.plus(span));
        self.accept(vec![NewOrder {
            deadline,
            ..new_order()
        }])
        .await[0]
    }

    pub async fn milestone(&self, id: OrderId, name: &str) -> Order {
        let new = NewMilestone {
            milestone: Milestone {
                name: MilestoneName::parse(name).unwrap(),
                data: None,
            },
            reason: None,
        };
        done(self.store().add_milestone(id, new).await.unwrap())
    }

    pub async fn accept_held(&self) -> OrderId {
        self.accept(vec![held()]).await[0]
    }
}

/// An order that is held from the start.
pub fn held() -> NewOrder {
    NewOrder {
        hold: Some(Hold {
            reason: Some(Reason::parse("waits for its payment").unwrap()),
        }),
        ..new_order()
    }
}
