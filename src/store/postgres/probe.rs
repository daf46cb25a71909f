//! Finds out whether orders can be stored when there is doubt: after a failure, and for as long as the store is not ready.
//! A write that is rolled back shows whether the tables take orders. A commit shows whether commits come back; while one is
//! known to wait, no other is sent, so that a wait for a standby costs the server one connection more than those that the node
//! has anyway ([`CONNECTIONS_MAX`](super::classes::CONNECTIONS_MAX)).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::sleep;

use super::failure::Failure;
use super::functions::named;
use super::link::Link;
use super::links::Links;
use super::message::with_numbers;
use super::rows;
use super::shared::Shared;
use super::state::State;
use crate::store::StoreHealth;
use crate::store::health::WAITS_FOR_STANDBY;

/// The longest time for one probe to wait for a table that another session holds, and to run.
const PROBE_TIME_MAX: Duration = Duration::from_secs(2);
/// First and longest wait after a probe.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The longest wait while the database cannot be reached: another caller's statement may find it before.
const AWAY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Room that a probe asks for once the disk was full: more than is left on the last pages of the tables.
const ROOM_KILOBYTES: i64 = 128;

/// Probes whenever there is doubt, until the store closes.
pub(super) async fn probe(state: Arc<State>, links: Links, shared: Arc<Shared>) {
    let doubts = async {
        loop {
            state.doubted().await;
            settle_doubt(&state, &links).await;
        }
    };
    tokio::select! {
        () = shared.closing.cancelled() => {}
        () = doubts => {}
    }
}

/// Probes until a probe has an answer for the store as it is.
async fn settle_doubt(state: &State, links: &Links) {
    let mut pause = PAUSE_MIN;
    while let Err(failure) = probe_once(state, links).await {
        match failure {
            Failure::Forbidden { text, .. }
            | Failure::Rejected { text, .. }
            | Failure::TimedOut(text)
            | Failure::Unexpected { text, .. } => state.cannot_write(&text),
            // The connection has told.
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
    // One refusal after the other is no reason for a probe after each.
    sleep(PAUSE_MIN).await;
}

/// Tries a write, and a commit where there is doubt whether one comes back.
async fn probe_once(state: &State, links: &Links) -> Result<(), Failure> {
    links.probe(&message(state)).await?;
    if !state.doubts_commits() {
        return Ok(());
    }
    let found = links.read(include_str!("waiting.sql"), &[]).await?;
    let row = rows::only(&found)?;
    let (for_standby, probing): (bool, bool) = (rows::column(row, 0)?, rows::column(row, 1)?);
    if for_standby {
        state.waits_for_standby();
    }
    if for_standby || probing {
        return Err(Failure::Unavailable(WAITS_FOR_STANDBY.into()));
    }
    links
        .probe(&with_numbers(COMMIT, &[(":time_ms", time_ms())]))
        .await?;
    state.commits();
    Ok(())
}

/// Judges the failure of a call that failed alone: where the store takes orders, it is this call that is refused.
pub(super) async fn judged(failure: Failure, link: &mut Link) -> Failure {
    let may_be_of_the_store = matches!(failure, Failure::Forbidden { .. } | Failure::Unexpected { .. });
    if may_be_of_the_store && passes(link).await {
        failure.of_one()
    } else {
        failure
    }
}

/// Reports whether the store takes orders, by a probe unless it is known not to.
pub(super) async fn passes(link: &mut Link) -> bool {
    let state = link.state();
    let message = message(state);
    state.health() == StoreHealth::Ready && link.flight(&message).await.is_ok()
}

static MESSAGE: LazyLock<String> = LazyLock::new(|| named(include_str!("probe.sql")));
const COMMIT: &str = include_str!("probe_commit.sql");

fn time_ms() -> i64 {
    i64::try_from(PROBE_TIME_MAX.as_millis()).unwrap_or(i64::MAX)
}

fn message(state: &State) -> String {
    let kilobytes = if state.was_full() { ROOM_KILOBYTES } else { 0 };
    with_numbers(
        &MESSAGE,
        &[
            (":time_ms", time_ms()),
            (":slot", Shared::any_slot().into()),
            (":kilobytes", kilobytes),
        ],
    )
}
