//! The feed as server-sent events (WHATWG HTML section 9.2).

use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::time::{Instant, sleep_until};

use crate::http::listener::EVENT_STREAM;
use crate::http::problem::Problem;
use crate::http::query::{self, FeedQuery};
use crate::http::{Shared, cursor};
use crate::live::{Feed, Next, Subscription};
use crate::store::FeedCursor;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Makes nginx and compatible proxies forward data as it arrives.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Range of the delay before a client reconnects. Drawn for each client, so that clients of a lost server do not
/// reconnect together.
const RETRY_MS: std::ops::RangeInclusive<u32> = 1_000..=4_000;

pub async fn stream(shared: &Shared, headers: &HeaderMap, query: Option<&str>) -> Result<Response, Problem> {
    let FeedQuery { filter, after } = query::feed_query(query)?;
    let after = match headers.get(LAST_EVENT_ID) {
        Some(id) if !id.is_empty() => Some(last_event_id(id)?),
        Some(_) | None => after,
    };
    let subscription = shared.live.subscribe(filter, after).await?;
    let stream = Stream {
        subscription,
        feed: shared.live.clone(),
        heartbeat: shared.heartbeat,
        stage: Stage::Begins,
    };
    let frames = stream::unfold(stream, |mut stream| async {
        let frame = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(frame), stream))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

fn last_event_id(id: &HeaderValue) -> Result<FeedCursor, Problem> {
    let known = id.to_str().ok().and_then(cursor::read);
    known.ok_or_else(|| Problem::bad_request("Last-Event-ID is not a cursor of the feed"))
}

struct Stream {
    subscription: Subscription,
    feed: Feed,
    heartbeat: Duration,
    stage: Stage,
}

enum Stage {
    Begins,
    Goes { heartbeat_at: Instant },
    Ended,
}

impl Stream {
    /// Returns the next bytes; `None` once the server stops and the client has its last cursor.
    async fn next(&mut self) -> Option<Bytes> {
        let heartbeat_at = match self.stage {
            Stage::Begins => {
                self.goes_on();
                return Some(self.beginning());
            }
            Stage::Goes { heartbeat_at } => heartbeat_at,
            Stage::Ended => return None,
        };
        tokio::select! {
            biased;
            () = self.feed.ending() => {
                self.stage = Stage::Ended;
                Some(id(self.subscription.cursor()).into())
            }
            next = self.subscription.next() => {
                self.goes_on();
                Some(match next {
                    Next::Change(change) => super::frame(&change),
                    Next::Resync(cursor) => resync(cursor),
                })
            }
            () = sleep_until(heartbeat_at) => {
                self.goes_on();
                // Carries the current position; otherwise a client without matching events would read everything again.
                Some(format!(":\n{}", id(self.subscription.cursor())).into())
            }
        }
    }

    fn goes_on(&mut self) {
        self.stage = Stage::Goes {
            heartbeat_at: Instant::now() + self.heartbeat,
        };
    }

    /// Gives the client a cursor even if nothing else follows.
    fn beginning(&mut self) -> Bytes {
        let retry = rand::random_range(RETRY_MS);
        format!("retry: {retry}\n{}", id(self.subscription.cursor())).into()
    }
}

/// Sets the client's last event id without sending an event.
fn id(at: FeedCursor) -> String {
    format!("id: {}\n\n", cursor::text(at))
}

fn resync(at: FeedCursor) -> Bytes {
    let cursor = cursor::text(at);
    format!("event: resync\nid: {cursor}\ndata: {{\"cursor\":\"{cursor}\"}}\n\n").into()
}
