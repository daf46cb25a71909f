//! The specification of `orderly::store::Store`: one promise per function, checked against every driver.
//! Driver-specific behaviour is tested with the driver.

/// Runs the listed tests of the module against every driver, and against PostgreSQL behind a pooler. A missing database
/// skips its tests with a message.
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
mod amend;
mod claim;
mod counters;
mod deadlines;
mod empty;
mod epochs;
mod explain;
mod external_leases;
mod feed;
mod fencing;
mod filters;
mod following;
mod handed_out;
mod history;
mod hold;
mod idempotency;
mod leases;
mod lifecycle;
mod listing;
mod milestones;
pub mod model;
mod nodes;
mod operator;
mod pause;
mod redrive_matching;
mod refused;
mod retention;
mod second_line;
mod settle;
mod settle_external;
mod start;
mod suspects;
mod time;
mod turns;
mod vitals;
