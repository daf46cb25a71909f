//! What the tests share: a store with a clock in their hands, makers of orders, and the oracle that every store
//! must pass when a test is done with it.

pub mod answers_early;
pub mod client;
pub mod clock;
pub mod harness;
pub mod make;
pub mod process;
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
