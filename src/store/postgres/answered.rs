//! The time that the answer to a statement may take.

use std::time::Duration;

use tokio::time::timeout;

use super::failure::Failure;

/// The time for one statement or flight, from sending it to having its answer; then its connection counts as hanging.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Awaits the answer to a statement, up to a limit.
pub(super) async fn answered<T>(
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failure> {
    answered_within(ANSWER_TIME_MAX, statement).await
}

/// The same for statements that may take as long as this.
pub(super) async fn answered_within<T, E: Into<Failure>>(
    time_max: Duration,
    statement: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    match timeout(time_max, statement).await {
        Ok(answer) => answer.map_err(E::into),
        Err(_) => Err(Failure::Hung(hung_text(time_max).into())),
    }
}

/// Describes a statement that was not answered in time.
pub(super) fn hung_text(time_max: Duration) -> String {
    format!("no answer within {time_max:?}")
}
