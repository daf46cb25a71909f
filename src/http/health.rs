//! Probes: whether the process lives, and whether it should get traffic. Answered from the last known state, so
//! that probing costs the store nothing.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{Problem, ProblemBody};
use super::{Shared, body};

/// Check that the process lives
#[utoipa::path(get, operation_id = "checkLive", path = "/livez", tag = "operation", security(()),
    responses((status = 200, description = "It lives", body = HealthBody)))]
pub async fn livez() -> Result<Response, Problem> {
    let answer = HealthBody {
        status: "alive",
        checks: Vec::new(),
    };
    body::json(StatusCode::OK, &answer)
}

/// Check that the server can take orders
#[utoipa::path(get, operation_id = "checkReady", path = "/readyz", tag = "operation", security(()),
    params(("verbose" = Option<String>, Query, description = "List the checks")),
    responses(
        (status = 200, description = "It can; with `durability` not ok, what it confirms is worth less than promised", body = HealthBody),
        (status = 503, description = "Not at the moment", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn readyz(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    readiness(&shared, query.as_deref())
}

/// Check readiness, as /readyz does
#[utoipa::path(get, operation_id = "checkHealth", path = "/healthz", tag = "operation", security(()),
    params(("verbose" = Option<String>, Query, description = "List the checks")),
    responses(
        (status = 200, description = "It can take orders", body = HealthBody),
        (status = 503, description = "Not at the moment", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn healthz(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    readiness(&shared, query.as_deref())
}

/// State of the server.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
struct HealthBody {
    /// `alive` or `ready`.
    status: &'static str,
    /// With `?verbose` only: `serving`, `store`, `durability`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    checks: Vec<CheckBody>,
}

/// A condition of readiness. `durability` is reported only: it does not make a server unready.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Check)]
pub struct CheckBody {
    name: &'static str,
    ok: bool,
    /// Reason for the failure, when `ok` is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl CheckBody {
    fn new(name: &'static str, ok: bool, reason: &'static str) -> CheckBody {
        CheckBody {
            name,
            ok,
            reason: (!ok).then_some(reason),
        }
    }
}

/// A setting of the database is nothing that other nodes would do better, so it is told and keeps no traffic away.
const WEAK: &str = "the database confirms commits before they are safe; the log says which setting";

/// A failed check is always named, all of them are where the client asks. Probes are open to everybody, so the
/// reasons are a closed set: what the database said is in the log.
fn readiness(shared: &Shared, query: Option<&str>) -> Result<Response, Problem> {
    let verbose =
        form_urlencoded::parse(query.unwrap_or_default().as_bytes()).any(|(name, _)| name == "verbose");
    let serving = !shared.draining.is_cancelled();
    let why_not = shared.store.health().public_reason();
    let needed = [
        CheckBody::new("serving", serving, "the server is shutting down"),
        CheckBody::new("store", why_not.is_none(), why_not.unwrap_or_default()),
    ];
    let listed = if verbose {
        let durable = shared.store.weaknesses().is_empty();
        let durability = CheckBody::new("durability", durable, WEAK);
        needed.iter().cloned().chain([durability]).collect()
    } else {
        Vec::new()
    };
    let failed: Vec<String> = needed
        .iter()
        .filter_map(|check| check.reason.map(|reason| format!("{}: {reason}", check.name)))
        .collect();
    if !failed.is_empty() {
        return Err(Problem::not_ready(failed.join(", "), listed));
    }
    let answer = HealthBody {
        status: "ready",
        checks: listed,
    };
    body::json(StatusCode::OK, &answer)
}
