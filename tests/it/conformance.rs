//! The specification of `orderly::store::Store`: one claim per function, each run against every driver. Nothing
//! here knows a driver; what a driver does beyond the trait is tested where the driver is.

/// Runs the listed claims of the module against every driver.
macro_rules! conformance {
    ($($claim:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    crate::support::check(crate::support::Harness::sqlite().await, super::$claim).await;
                }
            )+
        }
    };
}

mod accept;
mod claim;
mod fencing;
mod history;
mod idempotency;
mod leases;
mod lifecycle;
mod listing;
mod model;
mod nodes;
mod numbers;
mod operator;
mod pause;
mod redrive_matching;
mod second_line;
mod settle;
mod suspects;
mod time;
