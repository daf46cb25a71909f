//! The latest changes, kept in memory for whoever comes back after a short absence or lags a little.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Change, Filter};
use crate::store::FeedPosition;

/// Whoever is cut off and comes back is served out of these, whatever it missed: the place it knows is one heartbeat old at
/// most (15 s) when it is cut off, and it waits for up to the longest `retry` (4 s). That makes 9,500 changes where 500 are
/// made per second. About 750 bytes each once rendered: 7.5 MiB.
pub(super) const RECENT_CHANGES_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Recent {
    changes: VecDeque<Arc<Change>>,
    /// Everything behind this place, as far as it was handed out, is here.
    floor: Option<FeedPosition>,
}

/// What a subscriber that catches up gets.
pub(super) struct Found {
    pub changes: VecDeque<Arc<Change>>,
    /// Whether these are all that match; otherwise there are more behind the last one.
    pub all: bool,
}

impl Recent {
    /// Forgets everything, and begins behind this place.
    pub fn begin(&mut self, floor: FeedPosition) {
        self.changes.clear();
        self.floor = Some(floor);
    }

    pub fn clear(&mut self) {
        *self = Recent::default();
    }

    pub fn push(&mut self, change: Arc<Change>) {
        if self.changes.len() == RECENT_CHANGES_MAX
            && let Some(oldest) = self.changes.pop_front()
        {
            self.floor = Some(oldest.event.position);
        }
        self.changes.push_back(change);
    }

    /// The first `limit` changes behind `after` that match; `None` when not all behind it are here.
    pub fn after(&self, after: FeedPosition, filter: &Filter, limit: usize) -> Option<Found> {
        if self.floor.is_none_or(|floor| after < floor) {
            return None;
        }
        let first = self
            .changes
            .partition_point(|change| change.event.position <= after);
        let mut matching = self
            .changes
            .range(first..)
            .filter(|change| filter.matches(&change.event));
        let changes = matching.by_ref().take(limit).cloned().collect();
        Some(Found {
            changes,
            all: matching.next().is_none(),
        })
    }
}
