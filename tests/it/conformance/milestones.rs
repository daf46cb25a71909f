//! `add_milestone`: what clients report about an order in any status, also while an attempt runs.

use orderly::event::EventKind;
use orderly::lease::Outcome;
use orderly::order::{Milestone, MilestoneName, Order, OrderId, OrderStatus, Reason};
use orderly::store::{Acted, CLIENT_EVENTS_MAX, NewMilestone};

use crate::support::Harness;
use crate::support::harness::done;
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_B, failed, retry_after};

conformance! {
    an_order_takes_milestones_in_every_status,
    a_milestone_during_an_attempt_follows_its_start,
    an_attempt_with_milestones_ends_in_every_way,
    a_milestone_does_not_move_the_order_in_its_line,
    data_and_reason_are_in_the_history_and_the_feed,
    an_order_takes_a_thousand_events_of_clients,
    a_milestone_of_an_unknown_order_reports_it_as_unknown,
    a_long_history_with_milestones_is_whole,
}

fn new(name: &str, data: Option<&str>) -> NewMilestone {
    NewMilestone {
        milestone: Milestone {
            name: MilestoneName::parse(name).unwrap(),
            data: data.map(Into::into),
        },
        reason: None,
    }
}

async fn add(harness: &Harness, id: OrderId, name: &str) -> Order {
    done(harness.store().add_milestone(id, new(name, None)).await.unwrap())
}

async fn an_order_takes_milestones_in_every_status(harness: &mut Harness) {
    for status in [
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
        OrderStatus::Processing,
        OrderStatus::Pending,
    ] {
        let id = harness.order_in(status).await;
        let before = harness.order(id).await;
        let order = add(harness, id, "packed").await;
        assert_eq!(order.milestone.as_ref().unwrap().as_str(), "packed");
        let expected = Order {
            version: before.version + 1,
            milestone: order.milestone.clone(),
            ..before
        };
        assert_eq!(order, expected);
        assert_eq!(harness.order(id).await, order);
        let order = add(harness, id, "shipped").await;
        assert_eq!(order.milestone.unwrap().as_str(), "shipped");
        let records = harness.records().await;
        let record = records.iter().find(|record| record.order.order_id == id).unwrap();
        let last = &record.events.last().unwrap().event;
        assert_eq!(
            (last.kind, last.status, last.attempt),
            (EventKind::Milestone, status, order.attempts)
        );
    }
}

async fn a_milestone_during_an_attempt_follows_its_start(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    add(harness, id, "packed").await;
    add(harness, id, "weighed").await;
    let kinds = [
        EventKind::Accepted,
        EventKind::Started,
        EventKind::Milestone,
        EventKind::Milestone,
    ];
    assert_eq!(harness.events(id).await, kinds);
    harness.settle(&lease, Outcome::COMPLETED).await;
    add(harness, id, "shipped").await;
    let after = [EventKind::Completed, EventKind::Milestone];
    assert_eq!(harness.events(id).await, [&kinds[..], &after].concat());
}

async fn an_attempt_with_milestones_ends_in_every_way(harness: &mut Harness) {
    for outcome in [Outcome::COMPLETED, failed(), retry_after(0), Outcome::Released] {
        let id = harness.accept_one().await;
        let lease = harness.claim_only(id).await;
        add(harness, id, "packed").await;
        harness.settle(&lease, outcome).await;
        add(harness, id, "shipped").await;
        if harness.order(id).await.status == OrderStatus::Pending {
            let lease = harness.claim_only(id).await;
            add(harness, id, "again").await;
            harness.settle(&lease, Outcome::COMPLETED).await;
        }
    }
    let id = harness.accept_one().await;
    harness.claim_only(id).await;
    add(harness, id, "packed").await;
    harness.cancel(id).await;
    harness.redrive(id).await;
    harness.claim_as(NODE_B, 10).await;
    add(harness, id, "packed").await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await.pending, 1);
    harness.claim_only(id).await;
}

async fn a_milestone_does_not_move_the_order_in_its_line(harness: &mut Harness) {
    let ids = harness.accept_some(3).await;
    add(harness, ids[0], "priced").await;
    add(harness, ids[2], "priced").await;
    let leases = harness.claim(10).await;
    assert_eq!(crate::support::harness::ids_of(&leases), ids);
    assert_eq!(leases[0].order, harness.order(ids[0]).await);
}

async fn data_and_reason_are_in_the_history_and_the_feed(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let given = NewMilestone {
        reason: Some(Reason::parse("scanned").unwrap()),
        ..new("shipped", Some("{ \"tracking\" : \"1Z \\u00e9\" }"))
    };
    harness.store().add_milestone(id, given.clone()).await.unwrap();
    let history = harness.store().history(id, 1).await.unwrap().unwrap();
    let page = harness.store().events_after(None, 10).await.unwrap();
    for event in [&history.events[0].event, &page.events[1].event] {
        assert_eq!(event.detail.milestone.as_ref(), Some(&given.milestone));
        assert_eq!(event.detail.reason, given.reason);
        assert_eq!(event.status, OrderStatus::Pending);
    }
}

async fn an_order_takes_a_thousand_events_of_clients(harness: &mut Harness) {
    let id = harness.accept_one().await;
    for _ in 0..CLIENT_EVENTS_MAX {
        add(harness, id, "seen").await;
    }
    let order = harness.order(id).await;
    let acted = harness
        .store()
        .add_milestone(id, new("seen", None))
        .await
        .unwrap();
    assert_eq!(acted, Acted::TooManyEvents(order.clone()));
    assert_eq!(harness.order(id).await, order);
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
}

async fn a_milestone_of_an_unknown_order_reports_it_as_unknown(harness: &mut Harness) {
    let acted = harness
        .store()
        .add_milestone(OrderId(9), new("seen", None))
        .await
        .unwrap();
    assert_eq!(acted, Acted::Unknown);
}

async fn a_long_history_with_milestones_is_whole(harness: &mut Harness) {
    let id = harness.accept_one().await;
    for _ in 0..40 {
        let lease = harness.claim_only(id).await;
        add(harness, id, "tried").await;
        harness.settle(&lease, retry_after(0)).await;
        add(harness, id, "failed").await;
    }
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    add(harness, id, "shipped").await;
    assert_eq!(harness.events(id).await.len(), 1 + 4 * 40 + 3);
}
