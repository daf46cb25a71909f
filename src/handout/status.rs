//! Numbers of Redis, for `/queue`, metrics and `orderly doctor`.

use std::time::Duration;

use redis::streams::{StreamInfoConsumersReply, StreamInfoGroupsReply};
use redis::{InfoDict, cmd};
use tokio::time::timeout;

use super::link::{Link, LinkError};
use super::stream::{ABANDONED_AFTER, GROUP, Stream};
use crate::config::RedisServer;
use crate::store::{HandoutMode, HandoutStatus};

/// Maximum time for all of it.
const STATUS_TIME_MAX: Duration = Duration::from_secs(1);
/// The only policy under which Redis removes nothing by itself.
const KEEPS_ALL: &str = "noeviction";

pub(super) async fn of(stream: &Stream) -> HandoutStatus {
    let trouble = stream.link.trouble();
    let mode = if trouble.is_some() {
        HandoutMode::Store
    } else if stream.has_news_only() {
        HandoutMode::News
    } else if stream.is_used() {
        HandoutMode::Stream
    } else {
        HandoutMode::CatchingUp
    };
    let known = HandoutStatus {
        mode,
        trouble,
        ..HandoutStatus::default()
    };
    if stream.has_news_only() {
        return known;
    }
    match timeout(STATUS_TIME_MAX, read(stream)).await {
        Ok(Ok(numbers)) => HandoutStatus {
            depth: numbers.depth,
            lag: numbers.lag,
            abandoned: numbers.abandoned,
            ..known
        },
        Ok(Err(_)) | Err(_) => known,
    }
}

async fn read(stream: &Stream) -> Result<HandoutStatus, LinkError> {
    let link = &stream.link;
    let depth: u64 = link.ask(cmd("XLEN").arg(&stream.key)).await?;
    let groups: StreamInfoGroupsReply = link.ask(cmd("XINFO").arg("GROUPS").arg(&stream.key)).await?;
    let lag = groups
        .groups
        .iter()
        .find(|group| group.name == GROUP)
        .and_then(|group| group.lag);
    let consumers: StreamInfoConsumersReply = link
        .ask(cmd("XINFO").arg("CONSUMERS").arg(&stream.key).arg(GROUP))
        .await?;
    let silent = consumers
        .consumers
        .iter()
        .filter(|consumer| consumer.idle as u128 > ABANDONED_AFTER.as_millis());
    Ok(HandoutStatus {
        depth: Some(depth),
        lag: lag.map(|lag| lag as u64),
        abandoned: Some(silent.map(|consumer| consumer.pending as u64).sum()),
        ..HandoutStatus::default()
    })
}

/// Looks at a Redis for `orderly doctor`: its version and policy. The error is the reason why it cannot be used.
pub async fn survey(server: &RedisServer) -> Result<Survey, String> {
    let (stream, _) = Stream::new(Link::new(server), &server.prefix);
    let info: InfoDict = stream
        .link
        .run(&cmd("INFO"))
        .await
        .map_err(|error| error.to_string())?;
    let policy: Option<String> = info.get("maxmemory_policy");
    Ok(Survey {
        version: info.get("redis_version").unwrap_or_default(),
        evicts: policy.filter(|policy| policy != KEEPS_ALL),
        depth: read(&stream).await.ok().and_then(|numbers| numbers.depth),
    })
}

/// A Redis that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    pub version: String,
    /// The policy under which it may remove the stream; `None` if it removes nothing by itself.
    pub evicts: Option<String>,
    /// Entries of the stream; `None` before the first node.
    pub depth: Option<u64>,
}
