//! The state of the queue, and pausing it.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;

use super::Shared;
use super::actions::read_if_any;
use super::body;
use super::call::Call;
use super::openapi::InvalidFields;
use super::problem::Problem;
use super::request::RequestId;
use super::wire::{self, QueueAction, QueueBody};
use crate::order::Reason;
use crate::store::QueueState;

/// Read the queue: counts, age, nodes
#[utoipa::path(get, operation_id = "readQueue", path = "/queue", tag = "queue",
    responses((status = 200, description = "The queue in one snapshot", body = QueueBody)))]
pub async fn read(call: Call) -> Result<Response, Problem> {
    answer(&call.shared, &call.shared.store.queue().await?)
}

/// Pause processing on all nodes, across restarts
#[utoipa::path(post, operation_id = "pauseQueue", path = "/queue/pause", tag = "queue",
    request_body(content = QueueAction),
    responses(
        (status = 200, description = "No more orders start; orders are still accepted", body = QueueBody),
        InvalidFields,
    ))]
pub async fn pause(call: Call) -> Result<Response, Problem> {
    let action = Action::read(call).await?;
    action.shared.store.pause(action.reason.clone()).await?;
    action.log("paused");
    changed(&action.shared).await
}

/// Resume processing
#[utoipa::path(post, operation_id = "resumeQueue", path = "/queue/resume", tag = "queue",
    request_body(content = QueueAction),
    responses(
        (status = 200, description = "Orders start again", body = QueueBody),
        InvalidFields,
    ))]
pub async fn resume(call: Call) -> Result<Response, Problem> {
    let action = Action::read(call).await?;
    action.shared.store.resume().await?;
    action.log("resumed");
    changed(&action.shared).await
}

/// A pause or a resume, and who asks for it.
struct Action {
    shared: Arc<Shared>,
    request_id: RequestId,
    client: String,
    reason: Option<Reason>,
}

impl Action {
    async fn read(call: Call) -> Result<Action, Problem> {
        let client = call.client_address();
        let action = read_if_any(call.body, &call.head.headers, wire::read::<QueueAction>).await?;
        Ok(Action {
            shared: call.shared,
            request_id: call.id,
            client,
            reason: action.and_then(|action| action.reason),
        })
    }

    fn log(&self, change: &str) {
        tracing::info!(
            request.id = self.request_id.as_str(),
            client = self.client,
            reason = self.reason.as_ref().map(Reason::as_str),
            "the queue was {change}"
        );
    }
}

async fn changed(shared: &Shared) -> Result<Response, Problem> {
    // The change is durable, so an error of this read must not be answered with "nothing changed".
    let state = shared.store.queue_just_set().await;
    let state = state.map_err(Problem::unexpected)?;
    answer(shared, &state)
}

fn answer(shared: &Shared, state: &QueueState) -> Result<Response, Problem> {
    body::json(StatusCode::OK, &QueueBody::of(state, shared.service_trouble()))
}
