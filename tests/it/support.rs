//! What the tests share: a store with a clock in their hands, the servers and the proxy it may stand behind, makers of
//! orders, and the oracle that every store must pass when a test is done with it.

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
pub mod make;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod silent;
pub mod small_disk;
pub mod socket;
pub mod twisted;

pub use harness::{Harness, check};

/// Whether a test can run: with `ORDERLY_TEST_REQUIRE_ALL` what is missing is a failure, otherwise a line that says so.
pub fn required(what: &str, present: bool) -> bool {
    let all = std::env::var_os("ORDERLY_TEST_REQUIRE_ALL").is_some();
    assert!(
        present || !all,
        "{what} is not possible here, and every test is to run"
    );
    if !present {
        println!("skipped: {what} is not possible here");
    }
    present
}

/// What takes longer does not happen.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Asks until it holds: for what a server does and tells nobody.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let asked = async {
        while !holds().await {
            // What is waited for may need this thread.
            tokio::task::yield_now().await;
        }
    };
    let held = tokio::time::timeout(PATIENCE, asked).await;
    assert!(held.is_ok(), "{what}: not in time");
}
