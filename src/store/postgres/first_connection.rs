//! The first connection of a node. If the database answers, the node learns at once why this binary must not serve
//! it. If not, the node waits for it while it serves, so that supervisors find the node alive.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::connect::{Connector, unavailable};
use super::failure::PgFailure;
use super::pool::Pool;
use crate::store::opening::OpenError;

/// The longest wait of a start for the first connection. A reachable database answers sooner.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(2);

/// Connects, and reports whether that succeeded in time. An unreachable database is no error.
pub(super) async fn connect(
    connector: &Arc<Connector>,
    pool: &Arc<Pool>,
    location: &str,
) -> Result<bool, OpenError> {
    let connecting = connector.clone();
    let mut first = tokio::spawn(async move { connecting.connect_to_read().await });
    let Ok(connected) = timeout(FIRST_WAIT_MAX, &mut first).await else {
        let text = format!("not connected within {FIRST_WAIT_MAX:?}, still trying");
        tracing::warn!(
            "cannot reach the database at {location} so far: {text}. `orderly doctor` says what to do"
        );
        connector.state().failed(&PgFailure::Unavailable(text.into()));
        let pool = pool.clone();
        tokio::spawn(async move {
            // The state knows of a failure by then, and the next caller tries again.
            if let Ok(Ok(connection)) = first.await {
                pool.adopt(connection);
            }
        });
        return Ok(false);
    };
    match connected.expect("connecting does not panic, nor is it aborted") {
        Ok(connection) => {
            pool.adopt(connection);
            Ok(true)
        }
        Err(failure) => {
            if let Some(refusal) = connector.take_refusal() {
                return Err(refusal);
            }
            match failure {
                PgFailure::Refused(_) | PgFailure::Unsuitable(_) | PgFailure::Unexpected { .. } => {
                    Err(unavailable(location, &failure))
                }
                _ => {
                    tracing::warn!(
                        "cannot reach the database at {location}; trying again: {}",
                        failure.to_error("connect")
                    );
                    Ok(false)
                }
            }
        }
    }
}
