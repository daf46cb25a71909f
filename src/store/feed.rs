//! Places in the one feed of all events, and what a read of it answers.

use crate::event::Event;
use crate::time::Timestamp;

/// Most events one page of the feed holds.
pub const FEED_EVENTS_MAX: usize = 1_000;

/// One life of one store's feed: drawn at random when the store is made, and anew when it is restored from a backup, so
/// that positions given out before are not taken for positions of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeedId(pub u64);

/// A place in the one feed of all events; rises with the commits. 0 is before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedPosition(pub i64);

/// A place in a certain feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeedCursor {
    pub feed: FeedId,
    pub position: FeedPosition,
}

/// An event where it stands in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    pub position: FeedPosition,
    /// Whose order it is.
    pub user_id: i64,
    pub event: Event,
}

/// What there is of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedBounds {
    pub feed: FeedId,
    /// Retention removed no event after this position; before it, there may be gaps.
    pub complete_after: FeedPosition,
    /// The last position given out.
    pub last: FeedPosition,
}

impl FeedBounds {
    pub fn cursor(&self, position: FeedPosition) -> FeedCursor {
        FeedCursor {
            feed: self.feed,
            position,
        }
    }

    /// Whether reading on from there skips nothing.
    pub fn contain(&self, cursor: FeedCursor) -> bool {
        cursor.feed == self.feed && (self.complete_after..=self.last).contains(&cursor.position)
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
