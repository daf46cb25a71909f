//! Compares the machine's clock with the times in the store at the start.

use std::time::Duration;

use crate::config::Database;
use crate::store::clock::system_clock;
use crate::store::snapshot::newest_time;
use crate::store::{Store, StoreHealth};

/// Above the difference of synchronized clocks, or of a clock set back a little.
const AHEAD_WARN: Duration = Duration::from_mins(1);

/// Warns if the store is ahead of the clock. Nothing is lost then, but times are wrong.
pub(super) async fn compare(store: &dyn Store, database: &Database) {
    if store.health() != StoreHealth::Ready {
        return;
    }
    let read = async { newest_time(&mut *store.snapshot().await?).await };
    let newest = match read.await {
        Ok(newest) => newest,
        Err(error) => {
            tracing::debug!(%error, "cannot compare the clock with the store");
            return;
        }
    };
    let ahead = newest.map_or(Duration::ZERO, |newest| newest.since(system_clock()()));
    if ahead <= AHEAD_WARN {
        return;
    }
    let ahead = humantime::format_duration(Duration::from_secs(ahead.as_secs()));
    let consequence = match database {
        Database::Sqlite(_) => {
            "until it has caught up, times advance from the newest stored one at half speed, so that retries and leases \
             take twice as long"
        }
        Database::Postgres(_) => {
            "leases and retries use the database's clock: check that too, since nothing falls due while it is behind"
        }
    };
    tracing::warn!(
        "the newest time in the store is {ahead} ahead of the clock of this machine; set the clock: {consequence}"
    );
}
