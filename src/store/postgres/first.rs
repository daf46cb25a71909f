//! The first connection of a node. A database that answers tells at once why this binary must not serve it; one that does
//! not is waited for while the node serves, so that whoever watches over the node finds it alive.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::connect::{Connector, unavailable};
use super::failure::Failure;
use super::pool::Pool;
use crate::store::opening::OpenError;

/// The time for which a start waits for the first connection. A database that is there answers sooner.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(2);

/// Connects, and reports whether that is done. A database that cannot be reached is no error.
pub(super) async fn connect(
    connector: &Arc<Connector>,
    pool: &Arc<Pool>,
    location: &str,
) -> Result<bool, OpenError> {
    let connecting = connector.clone();
    let mut first = tokio::spawn(async move { connecting.connect_to_read().await });
    let Ok(connected) = timeout(FIRST_WAIT_MAX, &mut first).await else {
        let text = format!("not connected within {FIRST_WAIT_MAX:?}, still trying");
        tracing::warn!("the database at {location} cannot be reached so far: {text}");
        connector.state().failed(&Failure::Unavailable(text.into()));
        let pool = pool.clone();
        tokio::spawn(async move {
            // A failure is the state's by then, and the next caller tries again.
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
                Failure::Refused(_) | Failure::Unsuitable(_) | Failure::Unexpected { .. } => {
                    Err(unavailable(location, &failure))
                }
                _ => {
                    tracing::warn!(
                        "the database at {location} cannot be reached, trying again: {}",
                        failure.to_error("connect")
                    );
                    Ok(false)
                }
            }
        }
    }
}
