//! The latest changes, kept in memory for subscribers that reconnect or lag a little.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Change, Filter};
use crate::store::FeedPosition;

/// Serves every subscriber that was cut off and reconnects: its position is at most one heartbeat (15 s) old, and it
/// waits for at most the longest `retry` (4 s). At 500 changes per second that makes 9,500 changes. About 750 bytes
/// each once rendered: 7.5 MiB.
pub(super) const RECENT_CHANGES_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Recent {
    changes: VecDeque<Arc<Change>>,
    /// All delivered changes after this position are here.
    complete_after: Option<FeedPosition>,
}

/// Recent changes for a subscriber that catches up.
pub(super) struct Found {
    pub changes: VecDeque<Arc<Change>>,
    /// True if these are all that match; otherwise more follow the last one.
    pub all: bool,
}

impl Recent {
    /// Forgets everything and starts after this position.
    pub fn begin(&mut self, complete_after: FeedPosition) {
        self.changes.clear();
        self.complete_after = Some(complete_after);
    }

    pub fn clear(&mut self) {
        *self = Recent::default();
    }

    pub fn push(&mut self, change: Arc<Change>) {
        if self.changes.len() == RECENT_CHANGES_MAX
            && let Some(oldest) = self.changes.pop_front()
        {
            self.complete_after = Some(oldest.event.position);
        }
        self.changes.push_back(change);
    }

    /// Returns the first `limit` matching changes after `after`; `None` if not all later changes are here.
    pub fn after(&self, after: FeedPosition, filter: &Filter, limit: usize) -> Option<Found> {
        if self
            .complete_after
            .is_none_or(|complete_after| after < complete_after)
        {
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
