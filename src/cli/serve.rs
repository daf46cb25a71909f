//! `orderly serve`: configuration, log, runtime; the server itself is in `serve.rs` of the library.

use std::convert::Infallible;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::Verdict;
use super::failure::{Failure, chain};
use super::flags::{Flags, Server};
use crate::config::Loaded;
use crate::metrics::Metrics;
use crate::telemetry::{self, Telemetry};

/// How soon dropped log lines show in the metrics.
const DROPPED_LINES_INTERVAL: Duration = Duration::from_secs(1);
/// How long work on other threads may go on once serving has ended, such as a file system that does not answer.
/// Orders do not wait for it: what must be kept was kept before.
const LAST_WORK_TIME: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub flags: Flags<Server>,
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    let Loaded { config, warnings } = args.flags.layers().server()?;
    let telemetry = telemetry::start(&config.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let metrics = Metrics::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("start the runtime", error))?;
    let serving = async {
        tokio::select! {
            served = crate::serve::run(config, metrics.clone()) => served,
            never = count_dropped_lines(&telemetry, &metrics) => match never {},
        }
    };
    let served = run_to_its_end(runtime, serving, LAST_WORK_TIME);
    if let Err(error) = &served {
        // Told on stderr as well, but the log is what is kept.
        tracing::error!("stopped: {}", chain(error));
    }
    served?;
    Ok(Verdict::Good)
}

/// Dropping a runtime instead would wait for its blocking threads, for ever if need be.
fn run_to_its_end<T>(runtime: Runtime, main: impl Future<Output = T>, last_work_time: Duration) -> T {
    let ended = runtime.block_on(main);
    runtime.shutdown_timeout(last_work_time);
    ended
}

async fn count_dropped_lines(telemetry: &Telemetry, metrics: &Metrics) -> Infallible {
    let mut interval = tokio::time::interval(DROPPED_LINES_INTERVAL);
    let mut counted = 0;
    loop {
        interval.tick().await;
        let dropped = telemetry.dropped_lines();
        metrics.log_lines_dropped.inc_by(dropped - counted);
        counted = dropped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn the_end_waits_for_no_stuck_thread() {
        /// Longer than any end takes.
        const PATIENCE: Duration = Duration::from_mins(1);
        let (stuck, release) = mpsc::channel::<()>();
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
            runtime.spawn_blocking(move || release.recv());
            ended.send(run_to_its_end(runtime, async { 5 }, Duration::ZERO))
        });
        assert_eq!(end.recv_timeout(PATIENCE), Ok(5));
        drop(stuck);
    }
}
