//! A graceful stop loses nothing and repeats only orders that were given back.

use std::time::Duration;

use orderly::event::EventKind::{Accepted, Completed, Released, Started};
use orderly::order::OrderStatus;
use tokio::time::Instant;

use super::world::{Setting, Step, World};

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_what_it_can_and_gives_back_the_rest() {
    let mut world = World::new(Setting::default()).await;
    world.harness.store().pause(None).await.unwrap();
    let ids = world.harness.accept_some(10).await;
    world.script.order(ids[0], &[Step::Take(Duration::from_secs(3))]);
    world.script.otherwise(Step::Hang);
    world.harness.store().resume().await.unwrap();
    world
        .until("four attempts to begin", async |world| world.script.now() == 4)
        .await;
    world.drain(Duration::from_secs(5)).await;
    assert_eq!(world.harness.events(ids[0]).await, [Accepted, Started, Completed]);
    for id in &ids[1..4] {
        assert_eq!(world.harness.events(*id).await, [Accepted, Started, Released]);
        let order = world.harness.order(*id).await;
        assert_eq!((order.status, order.attempts), (OrderStatus::Pending, 0));
    }
    for id in &ids[4..] {
        assert_eq!(
            world.harness.events(*id).await,
            [Accepted],
            "an order started during the stop"
        );
    }
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_stops_at_once() {
    let mut world = World::new(Setting::default()).await;
    let asked = Instant::now();
    world.drain(Duration::from_mins(1)).await;
    assert!(asked.elapsed() < Duration::from_secs(1));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn given_back_orders_are_finished_after_the_restart() {
    let mut world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Hang);
    let ids = world.harness.accept_some(3).await;
    world
        .until("some attempts to begin", async |world| world.script.now() > 0)
        .await;
    world.drain(Duration::ZERO).await;
    world.script.otherwise(Step::Complete);
    world.restart(Setting::default());
    for id in ids {
        world.until_status(id, OrderStatus::Completed).await;
    }
    world.end().await;
}
