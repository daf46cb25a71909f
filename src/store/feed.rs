//! Pages and bounds of the feed.

use super::epochs::{Epochs, FeedCursor, FeedPosition};
use crate::event::Event;
use crate::order::UserId;
use crate::time::Timestamp;

/// Events per page of the feed, at most.
pub const FEED_EVENTS_MAX: usize = 1_000;

/// An event with its position in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    pub position: FeedPosition,
    /// The user of the order.
    pub user_id: UserId,
    pub event: Event,
}

/// The epochs and the first and last positions of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedBounds {
    /// Epochs that had begun at the time of the read.
    pub epochs: Epochs,
    /// The low-water mark: after this position the feed has no gaps.
    pub complete_after: FeedPosition,
    /// The last assigned position.
    pub last: FeedPosition,
}

impl FeedBounds {
    pub fn cursor(&self, position: FeedPosition) -> FeedCursor {
        self.epochs.cursor(position)
    }

    /// Reports whether a subscriber resuming from the cursor misses no event.
    pub fn contain(&self, cursor: FeedCursor) -> bool {
        self.epochs.contain(cursor) && (self.complete_after..=self.last).contains(&cursor.position)
    }
}

#[derive(Clone, Debug)]
pub struct FeedPage {
    /// Sorted by position. There may be fewer than the limit, or none.
    pub events: Vec<FeedEvent>,
    pub bounds: FeedBounds,
    /// Time of the read, by the store's clock.
    pub read_at: Timestamp,
    /// More events are committed that have no position yet. They will get one soon.
    pub unplaced: bool,
}
