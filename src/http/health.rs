//! Liveness and readiness probes, answered from the last known state so that they cost the store nothing.

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::openapi::{KeyNeeded, NotReady};
use super::problem::{CheckBody, Problem};
use super::{Shared, body};
use crate::diagnosis::{Finding, Severity};

/// Check that the process lives
#[utoipa::path(get, operation_id = "checkLive", path = "/livez", tag = "operation", security(()),
    responses((status = 200, description = "The process lives", body = HealthBody)))]
pub async fn livez(_call: Call) -> Result<Response, Problem> {
    let answer = HealthBody {
        status: "alive",
        checks: Vec::new(),
        findings: None,
    };
    body::json(StatusCode::OK, &answer)
}

/// Check that the server can take orders
#[utoipa::path(get, operation_id = "checkReady", path = "/readyz", tag = "operation", security(()),
    params(("verbose" = Option<String>, Query, description = "List the checks; needs the API key where one is set")),
    responses(
        (status = 200, description = "The server takes orders; with `durability` not ok, its confirmations are weaker than promised", body = HealthBody),
        KeyNeeded,
        NotReady,
    ))]
pub async fn readyz(call: Call) -> Result<Response, Problem> {
    readiness(&call.shared, &call.head).await
}

/// Check readiness, as /readyz does
#[utoipa::path(get, operation_id = "checkHealth", path = "/healthz", tag = "operation", security(()),
    params(("verbose" = Option<String>, Query, description = "List the checks; needs the API key where one is set")),
    responses(
        (status = 200, description = "The server takes orders", body = HealthBody),
        KeyNeeded,
        NotReady,
    ))]
pub async fn healthz(call: Call) -> Result<Response, Problem> {
    readiness(&call.shared, &call.head).await
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
    /// Findings of `orderly doctor` about the flow of orders, worst first, with `?verbose` only. Missing if the store has never
    /// been read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    findings: Option<Vec<FindingBody>>,
}

/// A problem with its cause and its remedy.
#[derive(Serialize, ToSchema)]
#[schema(as = Finding)]
struct FindingBody {
    /// Name of the rule, an anchor in docs/OPERATIONS.md.
    rule: &'static str,
    /// `fail`: orders do not start or end as they should. `warn`: they will not, or some do not.
    severity: &'static str,
    what: String,
    #[schema(required)]
    because: Option<String>,
    action: String,
}

impl From<Finding> for FindingBody {
    fn from(finding: Finding) -> FindingBody {
        FindingBody {
            rule: finding.rule.name(),
            severity: match finding.severity {
                Severity::Fail => "fail",
                Severity::Warn => "warn",
            },
            what: finding.what,
            because: finding.because,
            action: finding.action,
        }
    }
}

/// Reported without making the node unready: the setting is the database's, so other nodes would do no better.
const WEAK: &str = "the database confirms commits before they are safe; the log says which setting";

/// Names every failed check, and lists all checks if the client asks. Probes are open to every client, so the reasons
/// are a closed set; the database's own words are in the log.
async fn readiness(shared: &Shared, head: &Parts) -> Result<Response, Problem> {
    let query = head.uri.query().unwrap_or_default();
    let verbose = form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "verbose");
    if verbose && let Some(key) = &shared.api_key {
        key.admit(&head.headers)?;
    }
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
        findings: if verbose { findings(shared).await } else { None },
    };
    body::json(StatusCode::OK, &answer)
}

async fn findings(shared: &Shared) -> Option<Vec<FindingBody>> {
    let known = shared.monitor.read().await.ok()?;
    let found = shared.monitor.diagnose(&known);
    Some(found.into_iter().map(FindingBody::from).collect())
}
