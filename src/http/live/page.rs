//! Pages of the feed, for clients that poll.

use axum::http::StatusCode;
use axum::response::Response;

use crate::http::problem::Problem;
use crate::http::query::FeedPageQuery;
use crate::http::wire::{EventBody, FeedBody};
use crate::http::{Shared, body, cursor, query};
use crate::live::LogPage;
use crate::store::FeedCursor;

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
        // Fails only if the oldest events were removed just now.
        if let Ok(page) = page_after(shared, query, bounds.cursor(bounds.complete_after)).await? {
            return Ok(page);
        }
    }
}

/// Reads a page after the cursor. The inner error is the end of the feed, if the cursor cannot be followed.
async fn page_after(
    shared: &Shared,
    query: &FeedPageQuery,
    after: FeedCursor,
) -> Result<Result<LogPage, FeedCursor>, Problem> {
    let page = shared
        .live
        .page(query.feed.filter.clone(), after.position, query.limit)
        .await?;
    let (contained, end) = (page.bounds.contain(after), page.bounds.last);
    Ok(if contained {
        Ok(page)
    } else {
        Err(page.bounds.cursor(end))
    })
}

fn rendered(page: &LogPage) -> Result<FeedBody, Problem> {
    let body_of = |event| EventBody::new(event, page.bounds.cursor(event.position).epoch);
    let (events, cut_after) = body::page_items(&page.events, body_of)?;
    let next = cut_after.map_or(page.position, |last| last.position);
    Ok(FeedBody {
        events,
        next_cursor: cursor::text(page.bounds.cursor(next)),
    })
}
