//! The subscriptions of one WebSocket: each a task of its own that follows the feed into the one outbox of the socket.
//! While the outbox is full they wait, and lag behind the feed as every slow subscriber does.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::http::cursor;
use crate::http::live;
use crate::http::wire::{ServerMessage, SubscriptionId, event_message};
use crate::live::{Change, Feed, Filter, Next, SubscribeError, Subscription};
use crate::store::{FeedCursor, StoreError};

/// Of one socket.
const SUBSCRIPTIONS_MAX: usize = 100;
/// Shared changes that wait for the socket, of all its subscriptions together.
const OUTBOX_NEWS_MAX: usize = 64;

pub struct Subscriptions {
    feed: Feed,
    running: HashMap<SubscriptionId, Running>,
    tasks: JoinSet<()>,
    /// `None` once nothing new begins.
    outbox: Option<mpsc::Sender<News>>,
    /// Counts the socket's heartbeats, for every subscription to tell its place.
    beats: watch::Sender<u64>,
    next_number: u64,
}

struct Running {
    /// Tells it from an earlier one with the same id, of which news may still wait.
    number: u64,
    task: AbortHandle,
}

/// From a subscription to the client.
pub struct News {
    number: u64,
    id: SubscriptionId,
    what: What,
}

enum What {
    /// It has come so far: at its beginning, and later where nothing else says so.
    At(FeedCursor),
    Change(Arc<Change>),
    Resync(FeedCursor),
    /// Nothing follows.
    Ends {
        detail: &'static str,
        cursor: Option<FeedCursor>,
    },
}

impl Subscriptions {
    /// None yet, and where the news of all that come will arrive. That ends after [`Subscriptions::begin_no_more`].
    pub fn new(feed: Feed) -> (Subscriptions, mpsc::Receiver<News>) {
        let (sender, news) = mpsc::channel(OUTBOX_NEWS_MAX);
        let none = Subscriptions {
            feed,
            running: HashMap::new(),
            tasks: JoinSet::new(),
            outbox: Some(sender),
            beats: watch::Sender::new(0),
            next_number: 0,
        };
        (none, news)
    }

    /// # Errors
    /// Why not, for the client.
    pub fn begin(
        &mut self,
        id: SubscriptionId,
        filter: Filter,
        after: Option<FeedCursor>,
    ) -> Result<(), String> {
        if self.running.contains_key(&id) {
            return Err(String::from(
                "#/id is in use: unsubscribe first, or choose another",
            ));
        }
        if self.running.len() == SUBSCRIPTIONS_MAX {
            return Err(format!(
                "there are {SUBSCRIPTIONS_MAX} subscriptions on this socket, and more are not allowed"
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
            beats: self.beats.subscribe(),
        };
        let task = self.tasks.spawn(follow(self.feed.clone(), filter, after, outlet));
        self.running.insert(id, Running { number, task });
        Ok(())
    }

    /// Nothing that [`Subscriptions::text`] gives from now on is of this subscription. `false` when there is none.
    pub fn end(&mut self, id: &SubscriptionId) -> bool {
        let ended = self.running.remove(id);
        if let Some(running) = &ended {
            running.task.abort();
        }
        ended.is_some()
    }

    /// Has those tell their place whose client does not know it: each says one message, and one that still waits to say
    /// something counts several heartbeats as one.
    pub fn beat(&self) {
        self.beats.send_modify(|beats| *beats += 1);
    }

    pub fn begin_no_more(&mut self) {
        self.outbox = None;
    }

    /// The message to send; `None` for what was ended before it came to that.
    pub fn text(&mut self, news: &News) -> Option<String> {
        let id = &news.id;
        if self.running.get(id)?.number != news.number {
            return None;
        }
        Some(match &news.what {
            What::At(at) => {
                let cursor = cursor::text(*at);
                ServerMessage::Subscribed {
                    id: id.as_str(),
                    cursor,
                }
                .text()
            }
            What::Change(change) => event_message(id, &live::event_json(change)),
            What::Resync(at) => {
                let cursor = cursor::text(*at);
                ServerMessage::Resync {
                    id: id.as_str(),
                    cursor,
                }
                .text()
            }
            What::Ends { detail, cursor } => {
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

    /// The next task that is over; `None` while there is none. Cancel safe.
    pub async fn task_ended(&mut self) -> Option<Result<(), JoinError>> {
        self.tasks.join_next().await
    }
}

/// A subscription's way to its client.
struct Outlet {
    number: u64,
    id: SubscriptionId,
    outbox: mpsc::Sender<News>,
    beats: watch::Receiver<u64>,
}

/// The socket is gone.
struct Gone;

impl Outlet {
    async fn tell(&self, what: What) -> Result<(), Gone> {
        let news = News {
            number: self.number,
            id: self.id.clone(),
            what,
        };
        self.outbox.send(news).await.map_err(|_| Gone)
    }
}

/// Also to who has no cursor yet.
const STOPS: &str = "the server stops: come back";

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
    // A socket that is gone needs no farewell.
    let _ = outlet.tell(What::Ends { detail, cursor }).await;
}

/// Until the server stops: the place to come back with.
async fn pass_on(
    feed: &Feed,
    mut subscription: Subscription,
    outlet: &mut Outlet,
) -> Result<FeedCursor, Gone> {
    // The client's, once it has everything it was sent.
    let mut told = subscription.cursor();
    outlet.tell(What::At(told)).await?;
    loop {
        let what = tokio::select! {
            biased;
            () = feed.ending() => return Ok(subscription.cursor()),
            next = subscription.next() => match next {
                Next::Change(change) => {
                    told = change.cursor();
                    What::Change(change)
                }
                Next::Resync(cursor) => {
                    told = cursor;
                    What::Resync(cursor)
                }
            },
            beat = outlet.beats.changed() => {
                if beat.is_err() {
                    return Err(Gone);
                }
                let at = subscription.cursor();
                if at == told {
                    continue;
                }
                // Or a client that nothing concerns would come back to have all of it read.
                told = at;
                What::At(at)
            }
        };
        outlet.tell(what).await?;
    }
}

fn reason(error: &SubscribeError) -> &'static str {
    let error = match error {
        SubscribeError::TooMany => return "as many follow the feed on this node as may: try again later",
        SubscribeError::Store(error) => error,
    };
    match error {
        StoreError::Closed => STOPS,
        // The store's own log says why.
        StoreError::Busy | StoreError::Unavailable { .. } => "the feed cannot be read now: try again soon",
        StoreError::Unexpected { .. }
        | StoreError::Refused { .. }
        | StoreError::DiskFull
        | StoreError::QueueFull
        | StoreError::KeyReused => {
            tracing::error!(%error, "a subscription could not begin");
            "the feed cannot be read: the server failed"
        }
    }
}
