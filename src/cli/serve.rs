//! `orderly serve`: sets up configuration, log and runtime. `serve.rs` of the library is the server.

use std::convert::Infallible;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::Verdict;
use super::failure::Failure;
use super::flags::{Flags, Server};
use crate::causes::with_causes;
use crate::config::Loaded;
use crate::metrics::Metrics;
use crate::telemetry::{self, Telemetry};

/// Interval of the update of the metric of lost log lines.
const LOST_LINES_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum time between warnings of lost lines: if one log loses them, the other may still be read.
const LOST_LINES_WARNING_INTERVAL: Duration = Duration::from_mins(1);
/// Time that blocking work, such as a hung file system, may take after serving has ended. Orders do not depend on it:
/// everything durable is stored by then.
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
            never = count_lost_lines(&telemetry, &metrics) => match never {},
        }
    };
    let served = run_to_its_end(runtime, serving, LAST_WORK_TIME);
    if let Err(error) = &served {
        // Reported on stderr too, but only the log is kept.
        tracing::error!("stopped: {}", with_causes(error));
    }
    served?;
    Ok(Verdict::Good)
}

/// Runs to the end and shuts the runtime down; dropping it would wait for its blocking threads, possibly forever.
fn run_to_its_end<T>(runtime: Runtime, main: impl Future<Output = T>, last_work_time: Duration) -> T {
    let ended = runtime.block_on(main);
    runtime.shutdown_timeout(last_work_time);
    ended
}

async fn count_lost_lines(telemetry: &Telemetry, metrics: &Metrics) -> Infallible {
    let mut interval = tokio::time::interval(LOST_LINES_INTERVAL);
    let mut counted = 0;
    let mut warned_at: Option<Instant> = None;
    loop {
        interval.tick().await;
        let lost = telemetry.lost_lines();
        metrics.log_lines_dropped.inc_by(lost - counted);
        let warned_lately = warned_at.is_some_and(|at| at.elapsed() < LOST_LINES_WARNING_INTERVAL);
        if lost > counted && !warned_lately {
            tracing::warn!(
                lost,
                "log lines are lost: make room on the log's disk, or read its output faster"
            );
            warned_at = Some(Instant::now());
        }
        counted = lost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn the_end_waits_for_no_stuck_thread() {
        /// Longer than any shutdown takes.
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
