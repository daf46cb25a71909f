//! Reads the log from where somebody stands. Following it from its end is left to `tail`.

use super::Filter;
use crate::store::{
    Epochs, FEED_EVENTS_MAX, FeedBounds, FeedEvent, FeedPosition, PAGE_ROWS_LOOKED_AT_MAX, Store, StoreError,
};

/// Some matching events of the log.
pub struct LogPage {
    pub events: Vec<FeedEvent>,
    /// Everything that matches up to here is in `events`.
    pub position: FeedPosition,
    /// Where they do not contain the place that was asked for, the rest means nothing.
    pub bounds: FeedBounds,
}

/// The first `limit` matching events behind `after`, or those among the next [`PAGE_ROWS_LOOKED_AT_MAX`].
pub(super) async fn page(
    store: &dyn Store,
    filter: Filter,
    after: FeedPosition,
    limit: usize,
) -> Result<LogPage, StoreError> {
    // Where everything matches no more is read than asked for.
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
            // The end of the log. The last events of it may have been taken out.
            read.position = read.position.max(page.bounds.last);
            return Ok(read);
        }
        if read.events.len() == limit || looked_at >= PAGE_ROWS_LOOKED_AT_MAX {
            return Ok(read);
        }
        page = store.events_after(Some(read.position), step).await?;
        if !page.bounds.contain(read.bounds.cursor(read.position)) {
            // What comes next was taken out meanwhile: whoever goes on from here is told then.
            return Ok(read);
        }
        read.bounds.epochs = page.bounds.epochs.clone();
    }
}

/// The end of the log, or nearly: whoever reads on comes to it.
pub(super) struct Newest {
    /// Where `events` begin.
    pub begin: FeedPosition,
    /// As the last read found them.
    pub epochs: Epochs,
    /// All that come next, however far.
    pub events: Vec<FeedEvent>,
}

/// What follows `first`, in pages, and no more than `count` and one page. Nothing at all, and the end of the log as it is
/// now, where something of it was taken out meanwhile.
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
