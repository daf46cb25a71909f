//! Converts bounds in time to bounds in ids. Ids rise with the time of acceptance, except among orders that are
//! accepted at the same moment.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::class_pool::ReadSource;
use super::failure::PgFailure;
use super::rows;
use crate::store::OrderQuery;
use crate::time::Timestamp;

/// The longest time from an accept taking `created_at` to its commit, with a margin: the node and the server give an
/// accept up after a third of it. Orders further apart were accepted one after the other.
pub(super) const ACCEPT_TIME_MAX: Duration = Duration::from_secs(30);

/// A range of ids, from the first up to but not including the second.
pub(super) type IdRange = (i64, i64);

/// Returns the range of ids that can match the query's bounds in time; `None` when no order can match. The range may
/// include orders outside the bounds, so each row is checked as well.
pub(super) async fn id_range(
    source: &impl ReadSource,
    query: &OrderQuery,
) -> Result<Option<IdRange>, PgFailure> {
    let mut range = (0, query.before.map_or(i64::MAX, |before| before.0));
    if let Some(time) = query.created_before
        && let Some(first) = first_id_created(source, Created::NotBefore(time)).await?
    {
        range.1 = range.1.min(first);
    }
    if let Some(time) = query.created_after {
        match first_id_created(source, Created::After(time)).await? {
            Some(first) => range.0 = first,
            None => return Ok(None),
        }
    }
    Ok(Some(range))
}

/// A bound in time.
#[derive(Clone, Copy)]
pub(super) enum Created {
    NotBefore(Timestamp),
    After(Timestamp),
}

/// Finds an id from which all orders were created within the bound, or below which none was; `None` when there is
/// none. It is not the first such order itself, because orders accepted at the same moment are not sorted by time.
/// Bisects the primary key.
pub(super) async fn first_id_created(
    source: &impl ReadSource,
    bound: Created,
) -> Result<Option<i64>, PgFailure> {
    let (time, later) = match bound {
        Created::NotBefore(time) => (time.plus(ACCEPT_TIME_MAX), false),
        Created::After(time) => (time.minus(ACCEPT_TIME_MAX), true),
    };
    let found = source
        .read(
            include_str!("first_id_created.sql"),
            &[(&time, Type::TIMESTAMPTZ), (&later, Type::BOOL)],
        )
        .await?;
    found.first().map(|row| rows::column(row, 0)).transpose()
}
