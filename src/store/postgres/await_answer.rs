//! Waits for the answer to a statement, up to a limit.

use std::time::Duration;

use tokio::time::timeout;

use super::failure::PgFailure;

/// The longest time from sending a statement or message to its answer; after that its connection counts as hanging.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Awaits the answer to a statement for at most [`ANSWER_TIME_MAX`]. Fails with [`PgFailure::Hung`] after that.
pub(super) async fn await_answer<T>(
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, PgFailure> {
    await_answer_within(ANSWER_TIME_MAX, statement).await
}

/// Awaits the answer to a statement for at most `time_max`. Fails with [`PgFailure::Hung`] after that.
pub(super) async fn await_answer_within<T, E: Into<PgFailure>>(
    time_max: Duration,
    statement: impl Future<Output = Result<T, E>>,
) -> Result<T, PgFailure> {
    match timeout(time_max, statement).await {
        Ok(answer) => answer.map_err(E::into),
        Err(_) => Err(PgFailure::Hung(no_answer_text(time_max).into())),
    }
}

/// Describes a statement that was not answered in time.
pub(super) fn no_answer_text(time_max: Duration) -> String {
    format!("no answer within {time_max:?}")
}
