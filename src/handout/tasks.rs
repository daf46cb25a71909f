//! The tasks that look after the stream beside the claims.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::stream::Stream;

const TAKE_OVER_INTERVAL: Duration = Duration::from_secs(5);
/// Entries that one step acknowledges.
const FINISH_MAX: usize = 1_000;
/// Time between two looks at a Redis that carries news only.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Acknowledges started orders, until the node stops.
pub(super) async fn finish(
    stream: Arc<Stream>,
    mut finished: mpsc::Receiver<Vec<String>>,
    closing: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            biased;
            ids = finished.recv() => ids,
            () = closing.cancelled() => return,
        };
        let Some(mut ids) = first else { return };
        while ids.len() < FINISH_MAX
            && let Ok(more) = finished.try_recv()
        {
            ids.extend(more);
        }
        if let Err(error) = stream.acknowledge(&ids).await {
            tracing::debug!(%error, "cannot acknowledge started orders in Redis; they come again and are not started twice");
        }
    }
}

/// Takes over the entries that other nodes left, until the node stops.
pub(super) async fn take_over(stream: Arc<Stream>, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = sleep(TAKE_OVER_INTERVAL.mul_f64(rand::random_range(0.5..1.5))) => {}
        }
        if let Err(error) = stream.take_over().await {
            tracing::debug!(%error, "cannot take over what other nodes left in Redis; trying again");
        }
    }
}

/// Asks Redis now and then whether it answers, until the node stops.
pub(super) async fn probe(stream: Arc<Stream>, closing: CancellationToken) {
    loop {
        if let Err(error) = stream.link.run::<()>(&cmd("PING")).await {
            tracing::debug!(%error, "Redis does not answer; trying again");
        }
        tokio::select! {
            () = closing.cancelled() => return,
            () = sleep(PROBE_INTERVAL) => {}
        }
    }
}
