//! Says that the node lives and keeps the leases of its running attempts; gives attempts up whose leases it can
//! no longer believe in.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Shared, jittered};
use crate::store::{Heartbeat, StoreError};

/// Heartbeats per lease time: two may fail before a lease is lost.
const BEATS_PER_LEASE: u32 = 3;
/// Longest time between two heartbeats: the sweep for lost leases follows each.
const INTERVAL_MAX: Duration = Duration::from_secs(5);
/// Wait after a heartbeat that could not be stored, and between two looks at leases while one is on its way.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(shared: Arc<Shared>) {
    let interval = (shared.settings.lease / BEATS_PER_LEASE).min(INTERVAL_MAX);
    let mut failing = false;
    loop {
        let pause = if failing {
            interval.min(RETRY_INTERVAL)
        } else {
            interval
        };
        tokio::select! {
            () = shared.stopped.cancelled() => return,
            () = tokio::time::sleep(jittered(pause)) => {}
        }
        match beat_while_watching(&shared).await {
            Ok(()) => {
                failing = false;
                shared.beaten.notify_one();
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot renew leases, trying on");
                    failing = true;
                }
            }
        }
        give_up_expired(&shared);
    }
}

/// A store that does not answer must not keep this node believing in leases that ran out.
async fn beat_while_watching(shared: &Shared) -> Result<(), StoreError> {
    let beat = beat(shared);
    tokio::pin!(beat);
    loop {
        tokio::select! {
            result = &mut beat => return result,
            () = tokio::time::sleep(RETRY_INTERVAL) => give_up_expired(shared),
        }
    }
}

fn give_up_expired(shared: &Shared) {
    let given_up = shared.running.give_up_expired(Instant::now());
    if given_up > 0 {
        tracing::warn!(
            attempts = given_up,
            "gave up attempts whose leases could not be renewed in time"
        );
    }
}

async fn beat(shared: &Shared) -> Result<(), StoreError> {
    let leases = shared.running.keys(shared.settings.node);
    // Counted from before the store is asked, so that this node's clock never outlives the store's.
    let expires = Instant::now() + shared.settings.lease;
    let renewed = shared
        .store
        .renew(Heartbeat {
            node: shared.settings.node,
            slots: shared.settings.slots,
            leases: leases.clone(),
            lease: shared.settings.lease,
        })
        .await?;
    shared.running.renewed(&leases, &renewed.lost, expires);
    Ok(())
}
