//! The feed by page, for those who ask now and then.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::value::to_raw_value;

use crate::http::problem::Problem;
use crate::http::query::FeedPageQuery;
use crate::http::wire::{EventBody, FeedBody};
use crate::http::{Shared, body, cursor, query};
use crate::live::LogPage;
use crate::store::{FeedCursor, FeedPosition};

/// Events rendered for one page: some thousand of the usual ones. The page then ends early.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

pub async fn read(shared: &Shared, query: Option<&str>) -> Result<Response, Problem> {
    let query = query::feed_page_query(query)?;
    let page = match query.feed.after {
        Some(after) => {
            let page = page_after(shared, &query, after).await?;
            page.map_err(|now| Problem::cursor_gone(cursor::text(now)))?
        }
        None => oldest_page(shared, &query).await?,
    };
    body::json(StatusCode::OK, &rendered(&page)?)
}

async fn oldest_page(shared: &Shared, query: &FeedPageQuery) -> Result<LogPage, Problem> {
    loop {
        let bounds = shared.store.events_after(None, 0).await?.bounds;
        // Unless the oldest events were taken out just now.
        if let Ok(page) = page_after(shared, query, bounds.cursor(bounds.oldest)).await? {
            return Ok(page);
        }
    }
}

/// The end of the feed, where it cannot be read from there.
async fn page_after(
    shared: &Shared,
    query: &FeedPageQuery,
    after: FeedCursor,
) -> Result<Result<LogPage, FeedCursor>, Problem> {
    let page = shared
        .live
        .page(query.feed.filter, after.position, query.limit)
        .await?;
    let (contained, end) = (page.bounds.contain(after), page.bounds.last);
    Ok(if contained {
        Ok(page)
    } else {
        Err(page.bounds.cursor(end))
    })
}

/// As many events of the page as [`PAGE_BYTES_MAX`] takes, at least one; the next page begins after the last.
fn rendered(page: &LogPage) -> Result<FeedBody, Problem> {
    let feed = page.bounds.feed;
    let mut events = Vec::with_capacity(page.events.len());
    let (mut bytes, mut last, mut next) = (0, None::<FeedPosition>, page.position);
    for event in &page.events {
        let text = to_raw_value(&EventBody::new(event, feed)).map_err(Problem::unexpected)?;
        bytes += text.get().len();
        if let Some(last) = last
            && bytes > PAGE_BYTES_MAX
        {
            next = last;
            break;
        }
        events.push(text);
        last = Some(event.position);
    }
    Ok(FeedBody {
        events,
        next_cursor: cursor::text(page.bounds.cursor(next)),
    })
}
