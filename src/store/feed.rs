//! Places in the one feed of all events, and what a read of it answers.

use super::epochs::{Epochs, FeedCursor, FeedPosition};
use crate::event::Event;
use crate::time::Timestamp;

/// Most events one page of the feed holds.
pub const FEED_EVENTS_MAX: usize = 1_000;

/// An event where it stands in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    pub position: FeedPosition,
    /// Whose order it is.
    pub user_id: i64,
    pub event: Event,
}

/// What there is of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedBounds {
    /// All that had begun.
    pub epochs: Epochs,
    /// Retention removed no event after this position; before it, there may be gaps.
    pub complete_after: FeedPosition,
    /// The last position given out.
    pub last: FeedPosition,
}

impl FeedBounds {
    pub fn cursor(&self, position: FeedPosition) -> FeedCursor {
        self.epochs.cursor(position)
    }

    /// Whether reading on from there skips nothing.
    pub fn contain(&self, cursor: FeedCursor) -> bool {
        self.epochs.contain(cursor) && (self.complete_after..=self.last).contains(&cursor.position)
    }
}

#[derive(Clone, Debug)]
pub struct FeedPage {
    /// By rising position; may be short or empty.
    pub events: Vec<FeedEvent>,
    pub bounds: FeedBounds,
    /// By the store's clock.
    pub read_at: Timestamp,
    /// More is committed that has no position yet: soon it has.
    pub unplaced: bool,
}
