//! The specification of `orderly::store::Store`: one claim per function, each run against every driver. Nothing
//! here knows a driver; what a driver does beyond the trait is tested where the driver is.

/// Runs the listed claims of the module against every driver, and against PostgreSQL behind a pooler too. Where one is
/// not installed its tests say so.
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
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    if let Some(harness) = crate::support::Harness::postgres().await {
                        crate::support::check(harness, super::$claim).await;
                    }
                }
            )+
        }
        mod pooled {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    if let Some(harness) = crate::support::Harness::pooled().await {
                        crate::support::check(harness, super::$claim).await;
                    }
                }
            )+
        }
    };
}

mod accept;
mod claim;
mod empty;
mod epochs;
mod feed;
mod fencing;
mod following;
mod handed_out;
mod history;
mod idempotency;
mod leases;
mod lifecycle;
mod listing;
mod model;
mod nodes;
mod numbers;
mod operator;
mod outside;
mod pause;
mod redrive_matching;
mod refused;
mod retention;
mod second_line;
mod settle;
mod settle_outside;
mod standing;
mod start;
mod suspects;
mod time;
mod turns;
