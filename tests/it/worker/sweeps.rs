//! A node keeps sweeping for expired leases as long as any node could lose one.

use std::time::Duration;

use orderly::event::EventKind::{Accepted, LeaseLost, Started};
use orderly::order::{OrderId, OrderStatus};

use super::world::{LEASE, Setting, Step, World};
use crate::support::harness::ids_of;
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_B};

#[tokio::test(start_paused = true)]
async fn a_node_sweeps_lost_leases_while_the_queue_is_paused() {
    let mut world = World::new(Setting::default()).await;
    let id = held_by_another(&mut world, Setting::default()).await;
    world.harness.store().pause(None).await.unwrap();
    assert_taken_back(&world, id).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_sweeps_lost_leases_while_its_slots_are_full() {
    let full = Setting {
        slots: 1,
        ..Setting::default()
    };
    let mut world = World::new(full).await;
    let id = held_by_another(&mut world, full).await;
    world.script.otherwise(Step::Hang);
    world.harness.accept_one().await;
    assert_taken_back(&world, id).await;
    world.end().await;
}

/// The other node claims the only order and falls silent.
async fn held_by_another(world: &mut World, setting: Setting) -> OrderId {
    world.drain(Duration::ZERO).await;
    let id = world.harness.accept_one().await;
    assert_eq!(ids_of(&world.harness.claim_as(NODE_B, 1).await), [id]);
    world.restart(setting);
    id
}

async fn assert_taken_back(world: &World, id: OrderId) {
    world.pass(LEASE / 2).await;
    assert_eq!(world.harness.events(id).await, [Accepted, Started]);
    world.pass(LONGER_THAN_A_LEASE).await;
    assert_eq!(world.harness.events(id).await, [Accepted, Started, LeaseLost]);
    assert_eq!(world.harness.order(id).await.status, OrderStatus::Pending);
}
