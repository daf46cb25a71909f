//! Bounds in time as bounds in ids: orders have ids in the order of their acceptance, up to those accepted at the same moment.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::failure::Failure;
use super::links::Reads;
use super::rows;
use crate::store::OrderQuery;
use crate::time::Timestamp;

/// The time that a statement that accepts may run, from taking `created_at` to its commit, with time to spare: it is given up,
/// and the server told to, after a third of this. Orders further apart count as accepted one after the other.
pub(super) const ACCEPT_TIME_MAX: Duration = Duration::from_secs(30);

/// Ids from the first on and below the second.
pub(super) type IdRange = (i64, i64);

/// Bounds in time are bounds in ids up to what was accepted at the same moment; the times themselves are checked row
/// by row. `None` when no order can match.
pub(super) async fn id_range(source: &impl Reads, query: &OrderQuery) -> Result<Option<IdRange>, Failure> {
    let mut range = (0, query.before.map_or(i64::MAX, |before| before.0));
    if let Some(time) = query.created_before
        && let Some(first) = first_created(source, Created::NotBefore(time)).await?
    {
        range.1 = range.1.min(first);
    }
    if let Some(time) = query.created_after {
        match first_created(source, Created::After(time)).await? {
            Some(first) => range.0 = first,
            None => return Ok(None),
        }
    }
    Ok(Some(range))
}

#[derive(Clone, Copy)]
pub(super) enum Created {
    NotBefore(Timestamp),
    After(Timestamp),
}

/// An id from which on all orders were created so, or below which none was: not the first such order itself, since
/// orders that were accepted at the same moment do not have the times in the order of the ids. By bisection of the
/// primary key; `None` when there is none.
pub(super) async fn first_created(source: &impl Reads, bound: Created) -> Result<Option<i64>, Failure> {
    let (time, later) = match bound {
        Created::NotBefore(time) => (time.plus(ACCEPT_TIME_MAX), false),
        Created::After(time) => (time.minus(ACCEPT_TIME_MAX), true),
    };
    let found = source
        .read(
            include_str!("first_created.sql"),
            &[(&time, Type::TIMESTAMPTZ), (&later, Type::BOOL)],
        )
        .await?;
    found.first().map(|row| rows::column(row, 0)).transpose()
}
