//! Finds out whether orders can be stored when that is in doubt: after a failure, and while the store is not ready. A
//! trial write, rolled back, shows whether the tables take orders. A trial commit shows whether commits return. While
//! one is known to wait, no other is sent, so that a wait for a standby costs the server one connection beyond those
//! that the node has anyway ([`CONNECTIONS_MAX`](super::classes::CONNECTIONS_MAX)).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::sleep;

use super::class_connection::ClassConnection;
use super::class_pool::ClassPool;
use super::database_state::DatabaseState;
use super::failure::PgFailure;
use super::functions::named;
use super::message::with_numbers;
use super::pool::{Pool, STARVED};
use super::rows;
use super::shared::Shared;
use crate::store::StoreHealth;
use crate::store::health::WAITS_FOR_STANDBY;

/// The limit for one probe to run, and to wait for a table that another session holds.
const PROBE_TIME_MAX: Duration = Duration::from_secs(2);
/// The shortest and longest pause after a probe.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The pause while the database is unreachable. Another caller's statement may find it earlier.
const AWAY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// The space that a probe allocates after the disk was full: more than is free on the last pages of the tables.
const SPACE_KILOBYTES: i64 = 128;

/// Returns the health of the store: a database without a connection for results is of no use.
pub(super) fn health(state: &DatabaseState, pool: &Pool) -> StoreHealth {
    match state.health() {
        StoreHealth::Ready if pool.is_starved() => StoreHealth::NotReady(STARVED.to_owned()),
        health => health,
    }
}

/// Probes whenever it is doubtful whether orders can be stored, until the store closes.
pub(super) async fn probe(state: Arc<DatabaseState>, pool: ClassPool, shared: Arc<Shared>) {
    let doubts = async {
        loop {
            state.doubted().await;
            probe_until_clear(&state, &pool).await;
        }
    };
    tokio::select! {
        () = shared.closing.cancelled() => {}
        () = doubts => {}
    }
}

/// Probes until a probe succeeds.
async fn probe_until_clear(state: &DatabaseState, pool: &ClassPool) {
    let mut pause = PAUSE_MIN;
    while let Err(failure) = probe_once(state, pool).await {
        match failure {
            PgFailure::Forbidden { text, .. }
            | PgFailure::Rejected { text, .. }
            | PgFailure::TimedOut(text)
            | PgFailure::Unexpected { text, .. } => state.cannot_write(&text),
            // The connection has reported the failure to the state.
            _ => {}
        }
        if state.is_away() {
            tokio::select! {
                () = state.used() => {}
                () = sleep(AWAY_PAUSE_MAX) => {}
            }
        } else {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    state.can_write();
    // A series of refusals must not start a probe after each.
    sleep(PAUSE_MIN).await;
}

/// Tries a write, and a commit if it is doubtful whether commits return.
async fn probe_once(state: &DatabaseState, pool: &ClassPool) -> Result<(), PgFailure> {
    pool.send_probe(&message(state)).await?;
    if !state.doubts_commits() {
        return Ok(());
    }
    let found = pool.read(include_str!("standby_wait.sql"), &[]).await?;
    let row = rows::only(&found)?;
    let (waits_for_standby, probing): (bool, bool) = (rows::column(row, 0)?, rows::column(row, 1)?);
    if waits_for_standby {
        state.waits_for_standby();
    }
    if waits_for_standby || probing {
        return Err(PgFailure::Unavailable(WAITS_FOR_STANDBY.into()));
    }
    pool.send_probe(&with_numbers(COMMIT, &[(":time_ms", time_ms())]))
        .await?;
    state.commits();
    Ok(())
}

/// Turns the failure of a call that failed alone into a refusal of that call, if the store takes orders.
pub(super) async fn refusal_if_store_works(
    failure: PgFailure,
    connection: &mut ClassConnection,
) -> PgFailure {
    let may_be_of_the_store = matches!(
        failure,
        PgFailure::Forbidden { .. } | PgFailure::Unexpected { .. }
    );
    if may_be_of_the_store && store_takes_orders(connection).await {
        failure.into_refusal()
    } else {
        failure
    }
}

/// Reports whether the store takes orders: not if it is known not to, otherwise by a probe.
pub(super) async fn store_takes_orders(connection: &mut ClassConnection) -> bool {
    let state = connection.state();
    let message = message(state);
    state.health() == StoreHealth::Ready && connection.send_message(&message).await.is_ok()
}

static MESSAGE: LazyLock<String> = LazyLock::new(|| named(include_str!("probe.sql")));
const COMMIT: &str = include_str!("probe_commit.sql");

fn time_ms() -> i64 {
    i64::try_from(PROBE_TIME_MAX.as_millis()).unwrap_or(i64::MAX)
}

fn message(state: &DatabaseState) -> String {
    let kilobytes = if state.was_full() { SPACE_KILOBYTES } else { 0 };
    with_numbers(
        &MESSAGE,
        &[
            (":time_ms", time_ms()),
            (":slot", Shared::random_counter_slot().into()),
            (":kilobytes", kilobytes),
        ],
    )
}
