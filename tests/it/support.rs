//! Shared test support: a store with a test clock, private servers and proxies, builders for orders, and the checks
//! that every store must pass at the end of a test.

use std::time::Duration;

pub mod answers_early;
pub mod browser;
pub mod client;
pub mod clock;
pub mod config;
pub mod cutter;
pub mod gate;
pub mod harness;
pub mod late;
pub mod layers;
pub mod make;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod small_disk;
pub mod socket;
pub mod unresponsive;

pub use harness::{Harness, check};

/// Reports whether a test can run. Otherwise prints a message, or fails with `ORDERLY_TEST_REQUIRE_ALL`.
pub fn required(what: &str, present: bool) -> bool {
    let all = std::env::var_os("ORDERLY_TEST_REQUIRE_ALL").is_some();
    assert!(
        present || !all,
        "{what} is not possible here, but every test is required"
    );
    if !present {
        println!("skipped: {what} is not possible here");
    }
    present
}

/// The time after which a wait has failed.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Polls until the condition holds. For state that the server does not signal.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let asked = async {
        while !holds().await {
            // The awaited task may need this thread.
            tokio::task::yield_now().await;
        }
    };
    let held = tokio::time::timeout(PATIENCE, asked).await;
    assert!(held.is_ok(), "timed out waiting until {what}");
}
