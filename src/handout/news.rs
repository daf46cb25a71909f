//! News between nodes over Redis's publish and subscribe, beside the store's own notifications: they arrive also where a pooler
//! loses those. Whatever is lost is found by polling.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use redis::cmd;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::link::LinkError;
use super::stream::Stream;
use crate::store::{News, PeerNews};

/// Minimum time between two messages of a node.
const INTERVAL_MIN: Duration = Duration::from_millis(5);
/// Time between two attempts to listen.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The message by which a node says that it has new work for others.
pub(super) fn work_message(node: &str) -> String {
    message(node, News::Work)
}

fn message(node: &str, news: News) -> String {
    format!("{node} {}", news.name())
}

/// Publishes this node's news, until the node stops.
pub(super) async fn publish(stream: Arc<Stream>, peers: Arc<PeerNews>, closing: CancellationToken) {
    loop {
        let news = tokio::select! {
            () = closing.cancelled() => return,
            news = peers.to_send() => news,
        };
        for news in news {
            let publish = cmd("PUBLISH")
                .arg(&stream.channel)
                .arg(message(&stream.node, news))
                .to_owned();
            if let Err(error) = stream.link.ask::<()>(&publish).await {
                tracing::debug!(%error, "cannot tell the other nodes over Redis; they poll");
            }
        }
        sleep(INTERVAL_MIN).await;
    }
}

/// Listens to the other nodes, until the node stops.
pub(super) async fn listen(stream: Arc<Stream>, peers: Arc<PeerNews>, closing: CancellationToken) {
    loop {
        let ended = tokio::select! {
            () = closing.cancelled() => return,
            ended = listen_once(&stream, &peers) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "cannot listen to the other nodes over Redis; polling");
        }
        tokio::select! {
            () = closing.cancelled() => return,
            () = sleep(RETRY_PAUSE) => {}
        }
    }
}

/// Returns when the connection ends.
async fn listen_once(stream: &Stream, peers: &PeerNews) -> Result<(), LinkError> {
    let mut listener = stream.link.listener(&stream.channel).await?;
    // Something may have been missed.
    peers.hear(News::Work);
    let mut messages = listener.on_message();
    while let Some(message) = messages.next().await {
        let text: String = message.get_payload()?;
        let Some((sender, name)) = text.split_once(' ') else {
            continue;
        };
        if sender != stream.node
            && let Some(news) = News::ALL.into_iter().find(|news| news.name() == name)
        {
            peers.hear(news);
        }
    }
    Ok(())
}
