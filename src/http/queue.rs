//! The state of the queue, and pausing it.

use axum::http::StatusCode;
use axum::response::Response;

use super::Shared;
use super::body;
use super::call::Call;
use super::openapi::HasMembers;
use super::orders::read_action;
use super::problem::Problem;
use super::wire::QueueBody;
use crate::store::QueueState;

/// Read the queue: counts, age, nodes
#[utoipa::path(get, operation_id = "readQueue", path = "/queue", tag = "queue",
    responses((status = 200, description = "The queue in one snapshot", body = QueueBody)))]
pub async fn read(call: Call) -> Result<Response, Problem> {
    answer(&call.shared.store.queue().await?)
}

/// Pause processing on all nodes, across restarts
#[utoipa::path(post, operation_id = "pauseQueue", path = "/queue/pause", tag = "queue",
    responses(
        (status = 200, description = "No more orders start; orders are still accepted", body = QueueBody),
        HasMembers,
    ))]
pub async fn pause(call: Call) -> Result<Response, Problem> {
    set_paused(&*read_action(call).await?, true).await
}

/// Resume processing
#[utoipa::path(post, operation_id = "resumeQueue", path = "/queue/resume", tag = "queue",
    responses(
        (status = 200, description = "Orders start again", body = QueueBody),
        HasMembers,
    ))]
pub async fn resume(call: Call) -> Result<Response, Problem> {
    set_paused(&*read_action(call).await?, false).await
}

async fn set_paused(shared: &Shared, paused: bool) -> Result<Response, Problem> {
    shared.store.set_paused(paused).await?;
    // The change is durable, so an error of this read must not be answered with "nothing changed".
    let state = shared.store.queue_just_set().await;
    let state = state.map_err(Problem::unexpected)?;
    answer(&state)
}

fn answer(state: &QueueState) -> Result<Response, Problem> {
    body::json(StatusCode::OK, &QueueBody::from(state))
}
