//! Long tests. `cargo xtask soak NAME` runs one in full (`ORDERLY_SOAK=1`); an ordinary run has a slice of each, of at most a
//! minute.

use std::time::Duration;

mod stuck;

/// In full, not a slice.
fn in_full() -> bool {
    std::env::var_os("ORDERLY_SOAK").is_some_and(|value| value == "1")
}

/// What takes longer does not happen.
fn patience() -> Duration {
    if in_full() {
        Duration::from_mins(30)
    } else {
        Duration::from_mins(1)
    }
}

/// As `support::until`, for what may take long.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let asked = async {
        while !holds().await {
            // What is waited for may need this thread.
            tokio::task::yield_now().await;
        }
    };
    let held = tokio::time::timeout(patience(), asked).await;
    assert!(held.is_ok(), "{what}: not in time");
}
