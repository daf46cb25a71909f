//! Orders whose service misbehaves do not affect the others.

use orderly::order::{OrderId, OrderStatus};

use super::fixture::{Fixture, patient};
use super::receiver::{Reaction, Receiver};
use crate::support::until;

const SLOTS: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn hanging_deliveries_do_not_hold_up_other_orders() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(patient(&receiver.url()), |config| config.concurrency = SLOTS).await;
    let stalled = b"HTTP/1.1 422 No\r\nContent-Le".to_vec();
    let mut hanging = Vec::new();
    for (name, message) in [
        ("silent", Vec::new()),
        ("half a head", stalled.clone()),
        ("once more", stalled),
    ] {
        receiver.set_reactions(name, [Reaction::AnswerAndHang(message)]);
        hanging.push(fixture.order(name).await);
    }
    until("the deliveries hang", async || receiver.open() == 3).await;
    let mut orders = Vec::new();
    for _ in 0..50 {
        orders.push(fixture.order("good").await);
    }
    for id in orders {
        assert_eq!(fixture.ended(id).await["status"], "Completed");
    }
    assert_eq!(receiver.open(), 3);
    for id in &hanging {
        assert_eq!(fixture.now(*id).await["status"], "Processing");
        // A cancel ends the call: the service sees the connection close.
        fixture.act(*id, "cancel").await;
    }
    until("all calls have ended", async || receiver.open() == 0).await;
    for _ in 0..SLOTS {
        receiver.set_reactions("held", [Reaction::Hold]);
        fixture.order("held").await;
    }
    until("every slot is free again", async || {
        receiver.open() == SLOTS as usize
    })
    .await;
    receiver.release();
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_ends_deliveries_without_counting_attempts() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(patient(&receiver.url()), |_| {}).await;
    receiver.set_reactions("silent", [Reaction::AnswerAndHang(Vec::new())]);
    let id = fixture.order("silent").await;
    until("the delivery hangs", async || receiver.open() == 1).await;
    let mut harness = fixture.stop_at_once().await;
    until("the call has ended", async || receiver.open() == 0).await;
    harness.reopen().await;
    let order = harness.order(OrderId(id)).await;
    assert_eq!((order.status, order.attempts), (OrderStatus::Pending, 0));
    harness.store().close().await;
}
