//! Subscriptions of one WebSocket. Each is a task that follows the feed into the socket's outbox. While the outbox is
//! full the tasks wait and lag behind the feed, like every slow subscriber.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::http::cursor;
use crate::http::live;
use crate::http::wire::{ServerMessage, SubscriptionId, event_message};
use crate::live::{Change, Feed, Filter, Next, SubscribeError, Subscription};
use crate::store::{FeedCursor, StoreError};

/// Maximum number of subscriptions per socket.
const SUBSCRIPTIONS_MAX: usize = 100;
/// Maximum number of notices waiting for the socket, from all its subscriptions together.
const OUTBOX_NOTICES_MAX: usize = 64;

pub struct Subscriptions {
    feed: Feed,
    running: HashMap<SubscriptionId, Running>,
    tasks: JoinSet<()>,
    /// `None` once no subscription may begin.
    outbox: Option<mpsc::Sender<Notice>>,
    /// Number of the socket's heartbeats; with each one, subscriptions report their positions.
    heartbeats: watch::Sender<u64>,
    next_number: u64,
}

struct Running {
    /// Distinguishes the subscription from an earlier one with its id, whose notices may still wait.
    number: u64,
    task: AbortHandle,
}

/// A notice from a subscription to the client.
pub struct Notice {
    number: u64,
    id: SubscriptionId,
    content: Content,
}

enum Content {
    /// Position reached: at the start, and later if nothing else reports it.
    At(FeedCursor),
    Change(Arc<Change>),
    Resync(FeedCursor),
    /// The subscription ends.
    Ends {
        detail: &'static str,
        cursor: Option<FeedCursor>,
    },
}

impl Subscriptions {
    /// Returns an empty set and the receiver of its notices, which ends after [`Subscriptions::begin_no_more`].
    pub fn new(feed: Feed) -> (Subscriptions, mpsc::Receiver<Notice>) {
        let (sender, notices) = mpsc::channel(OUTBOX_NOTICES_MAX);
        let empty = Subscriptions {
            feed,
            running: HashMap::new(),
            tasks: JoinSet::new(),
            outbox: Some(sender),
            heartbeats: watch::Sender::new(0),
            next_number: 0,
        };
        (empty, notices)
    }

    /// Begins a subscription.
    ///
    /// # Errors
    /// The reason, for the client.
    pub fn begin(
        &mut self,
        id: SubscriptionId,
        filter: Filter,
        after: Option<FeedCursor>,
    ) -> Result<(), String> {
        if self.running.contains_key(&id) {
            return Err(String::from(
                "#/id is in use; unsubscribe first or choose another",
            ));
        }
        if self.running.len() == SUBSCRIPTIONS_MAX {
            return Err(format!(
                "this socket has {SUBSCRIPTIONS_MAX} subscriptions, the maximum"
            ));
        }
        let Some(outbox) = self.outbox.clone() else {
            return Err(String::from(STOPS));
        };
        let number = self.next_number;
        self.next_number += 1;
        let outlet = Outlet {
            number,
            id: id.clone(),
            outbox,
            heartbeats: self.heartbeats.subscribe(),
        };
        let task = self.tasks.spawn(follow(self.feed.clone(), filter, after, outlet));
        self.running.insert(id, Running { number, task });
        Ok(())
    }

    /// Ends a subscription: [`Subscriptions::text`] gives nothing more of it. `false` if there is none.
    pub fn end(&mut self, id: &SubscriptionId) -> bool {
        let ended = self.running.remove(id);
        if let Some(running) = &ended {
            running.task.abort();
        }
        ended.is_some()
    }

    /// Makes subscriptions report a position that their client does not know, in one message each. A subscription still
    /// waiting to send takes several heartbeats as one.
    pub fn heartbeat(&self) {
        self.heartbeats.send_modify(|heartbeats| *heartbeats += 1);
    }

    pub fn begin_no_more(&mut self) {
        self.outbox = None;
    }

    /// Returns the message to send; `None` if its subscription has ended.
    pub fn text(&mut self, notice: &Notice) -> Option<String> {
        let id = &notice.id;
        if self.running.get(id)?.number != notice.number {
            return None;
        }
        Some(match &notice.content {
            Content::At(at) => {
                let cursor = cursor::text(*at);
                ServerMessage::Subscribed {
                    id: id.as_str(),
                    cursor,
                }
                .text()
            }
            Content::Change(change) => event_message(id, &live::event_json(change)),
            Content::Resync(at) => {
                let cursor = cursor::text(*at);
                ServerMessage::Resync {
                    id: id.as_str(),
                    cursor,
                }
                .text()
            }
            Content::Ends { detail, cursor } => {
                self.running.remove(id);
                ServerMessage::Error {
                    id: Some(id.as_str()),
                    detail,
                    cursor: cursor.map(cursor::text),
                }
                .text()
            }
        })
    }

    /// Returns the next task that ends; `None` while there is none. Cancel safe.
    pub async fn task_ended(&mut self) -> Option<Result<(), JoinError>> {
        self.tasks.join_next().await
    }
}

/// A subscription's access to the socket's outbox.
struct Outlet {
    number: u64,
    id: SubscriptionId,
    outbox: mpsc::Sender<Notice>,
    heartbeats: watch::Receiver<u64>,
}

/// The socket is closed.
struct Gone;

impl Outlet {
    async fn send(&self, content: Content) -> Result<(), Gone> {
        let notice = Notice {
            number: self.number,
            id: self.id.clone(),
            content,
        };
        self.outbox.send(notice).await.map_err(|_| Gone)
    }
}

/// Also sent to a client that has no cursor yet.
const STOPS: &str = "the server is stopping; reconnect";

async fn follow(feed: Feed, filter: Filter, after: Option<FeedCursor>, mut outlet: Outlet) {
    let begun = tokio::select! {
        biased;
        () = feed.ending() => Err(STOPS),
        begun = feed.subscribe(filter, after) => begun.map_err(|error| reason(&error)),
    };
    let (detail, cursor) = match begun {
        Ok(subscription) => match pass_on(&feed, subscription, &mut outlet).await {
            Ok(at) => (STOPS, Some(at)),
            Err(Gone) => return,
        },
        Err(detail) => (detail, after),
    };
    // A closed socket needs no last notice.
    let _ = outlet.send(Content::Ends { detail, cursor }).await;
}

/// Passes on the feed until the server stops. Returns the position to resume from.
async fn pass_on(
    feed: &Feed,
    mut subscription: Subscription,
    outlet: &mut Outlet,
) -> Result<FeedCursor, Gone> {
    // Position known to the client once it has received everything.
    let mut known = subscription.cursor();
    outlet.send(Content::At(known)).await?;
    loop {
        let content = tokio::select! {
            biased;
            () = feed.ending() => return Ok(subscription.cursor()),
            next = subscription.next() => match next {
                Next::Change(change) => {
                    known = change.cursor();
                    Content::Change(change)
                }
                Next::Resync(cursor) => {
                    known = cursor;
                    Content::Resync(cursor)
                }
            },
            changed = outlet.heartbeats.changed() => {
                if changed.is_err() {
                    return Err(Gone);
                }
                let at = subscription.cursor();
                if at == known {
                    continue;
                }
                // Otherwise a client without matching events would have everything read again.
                known = at;
                Content::At(at)
            }
        };
        outlet.send(content).await?;
    }
}

fn reason(error: &SubscribeError) -> &'static str {
    let error = match error {
        SubscribeError::TooMany => {
            return "this node has reached its limit of feed subscribers; retry later or use another node";
        }
        SubscribeError::Store(error) => error,
    };
    match error {
        StoreError::Closed => STOPS,
        // The store logs the reason.
        StoreError::Busy | StoreError::Unavailable { .. } => "the feed cannot be read now; retry soon",
        StoreError::Unexpected { .. }
        | StoreError::Refused { .. }
        | StoreError::DiskFull
        | StoreError::QueueFull
        | StoreError::DeadlinePassed { .. }
        | StoreError::KeyReused => {
            tracing::error!(%error, "cannot begin a subscription");
            "the feed cannot be read; internal error"
        }
    }
}
