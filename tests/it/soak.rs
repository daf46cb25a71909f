//! Long tests. `cargo xtask soak NAME` runs one in full (`ORDERLY_SOAK=1`); an ordinary run has a slice of each, of at
//! most a minute.

use std::time::Duration;

mod faults;
mod model;
mod races;
mod redis;
mod stuck;

/// Reports whether the test runs in full instead of as a slice.
pub fn in_full() -> bool {
    std::env::var_os("ORDERLY_SOAK").is_some_and(|value| value == "1")
}

/// The time after which a wait has failed.
fn patience() -> Duration {
    if in_full() {
        Duration::from_mins(30)
    } else {
        Duration::from_mins(1)
    }
}

/// Like `support::until`, with more patience.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let asked = async {
        while !holds().await {
            // The awaited task may need this thread.
            tokio::task::yield_now().await;
        }
    };
    let held = tokio::time::timeout(patience(), asked).await;
    assert!(held.is_ok(), "timed out waiting until {what}");
}
