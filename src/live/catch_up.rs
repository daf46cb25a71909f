//! Reads the log after a given position; `tail` follows its end.

use super::Filter;
use crate::store::{
    Epochs, FEED_EVENTS_MAX, FeedBounds, FeedEvent, FeedPosition, PAGE_ROWS_EXAMINED_MAX, Store, StoreError,
};

/// Some matching events of the log.
pub struct LogPage {
    pub events: Vec<FeedEvent>,
    /// Position up to which all matching events are in `events`.
    pub position: FeedPosition,
    /// Unless they contain the requested position, the rest is void.
    pub bounds: FeedBounds,
}

/// Reads the first `limit` matching events after `after`, or those among the next [`PAGE_ROWS_EXAMINED_MAX`].
pub(super) async fn page(
    store: &dyn Store,
    filter: Filter,
    after: FeedPosition,
    limit: usize,
) -> Result<LogPage, StoreError> {
    // Without a filter, no more is read than requested.
    let step = if filter == Filter::default() {
        limit.min(FEED_EVENTS_MAX)
    } else {
        FEED_EVENTS_MAX
    };
    let first = store.events_after(Some(after), step).await?;
    let mut read = LogPage {
        events: Vec::new(),
        position: after,
        bounds: first.bounds.clone(),
    };
    let mut page = first;
    let mut looked_at = 0;
    loop {
        let count = page.events.len();
        looked_at += count;
        for event in page.events {
            if filter.matches(&event) {
                if read.events.len() == limit {
                    return Ok(read);
                }
                read.position = event.position;
                read.events.push(event);
            } else {
                read.position = event.position;
            }
        }
        if count < step {
            // The end of the log, whose last events may have been removed.
            read.position = read.position.max(page.bounds.last);
            return Ok(read);
        }
        if read.events.len() == limit || looked_at >= PAGE_ROWS_EXAMINED_MAX {
            return Ok(read);
        }
        page = store.events_after(Some(read.position), step).await?;
        if !page.bounds.contain(read.bounds.cursor(read.position)) {
            // Later events were removed meanwhile; the next read from here reports it.
            return Ok(read);
        }
        read.bounds.epochs = page.bounds.epochs.clone();
    }
}

/// The end of the log, or nearly the end.
pub(super) struct Newest {
    /// Position before `events`.
    pub begin: FeedPosition,
    /// Epochs of the last read.
    pub epochs: Epochs,
    /// All events that follow, to the end of the read.
    pub events: Vec<FeedEvent>,
}

/// Reads the events after `first`, page by page, until there are `count`. Returns no events and the current end of the
/// log if some of them were removed meanwhile.
pub(super) async fn newest(
    store: &dyn Store,
    mut epochs: Epochs,
    first: FeedPosition,
    count: usize,
) -> Result<Newest, StoreError> {
    let mut events = Vec::new();
    let mut at = first;
    loop {
        let page = store.events_after(Some(at), FEED_EVENTS_MAX).await?;
        if !page.bounds.contain(epochs.cursor(at)) {
            return Ok(Newest {
                begin: page.bounds.last,
                epochs: page.bounds.epochs,
                events: Vec::new(),
            });
        }
        epochs = page.bounds.epochs;
        let is_full = page.events.len() == FEED_EVENTS_MAX;
        events.extend(page.events);
        at = events.last().map_or(at, |last: &FeedEvent| last.position);
        if !is_full || events.len() >= count {
            return Ok(Newest {
                begin: first,
                epochs,
                events,
            });
        }
    }
}
