//! Finds out whether orders can be stored when there is doubt: after a failure, and for as long as the store is not ready.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::sleep;

use super::failure::Failure;
use super::functions::named;
use super::link::Link;
use super::links::Links;
use super::message::with_numbers;
use super::shared::Shared;
use super::state::State;
use crate::store::StoreHealth;

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
    while let Err(failure) = links.flight(&message(state)).await {
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

fn message(state: &State) -> String {
    let time_ms = i64::try_from(PROBE_TIME_MAX.as_millis()).unwrap_or(i64::MAX);
    let kilobytes = if state.was_full() { ROOM_KILOBYTES } else { 0 };
    with_numbers(
        &MESSAGE,
        &[
            (":time_ms", time_ms),
            (":slot", Shared::any_slot().into()),
            (":kilobytes", kilobytes),
        ],
    )
}
