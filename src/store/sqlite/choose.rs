//! Chooses the orders that a claim starts: the next of both lines, or those of a given list that may start. `claim` starts
//! them.

use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Row;

use super::group::Group;
use crate::order::{self, OrderId};
use crate::store::ClaimRequest;
use crate::store::claim::share;
use crate::store::snapshot::EVERY_EARLIER;
use crate::time::Timestamp;

/// Precautions of a claim against orders that the database may refuse to start.
#[derive(Default)]
pub(super) struct StartOptions {
    /// Orders not to be chosen, by rising id.
    pub excluded: Vec<OrderId>,
    /// Starts each order in a savepoint of its own, so that a refusal affects only that order.
    pub one_by_one: bool,
}

impl StartOptions {
    pub fn excludes(&self, id: OrderId) -> bool {
        self.excluded.binary_search(&id).is_ok()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Orders that never started.
    First,
    /// Orders that started before: retries, redrives and orders given back.
    Second,
}

pub(super) struct Chosen {
    /// Listed in the order in which they start.
    pub orders: Vec<(Line, OrderId)>,
    /// Excluded orders at the head of the first line, or [`EVERY_EARLIER`] if the caller chose the orders.
    pub passed_over: Vec<OrderId>,
}

/// Chooses the next orders of both lines, at most `places`. `second_line_first` decides which line gets the odd place when both
/// have work; each use flips it.
pub(super) fn next(
    group: &Group<'_>,
    request: &ClaimRequest,
    places: usize,
    second_line_first: &AtomicBool,
    options: &StartOptions,
) -> Result<Chosen, rusqlite::Error> {
    let first_line = first_line(group, places + options.excluded.len())?;
    let (passed_over, mut first_line): (Vec<OrderId>, Vec<OrderId>) =
        first_line.into_iter().partition(|id| options.excludes(*id));
    let mut second_line = second_line(group, places, request.suspect, options)?;
    let tied = places > 0 && !first_line.is_empty() && !second_line.is_empty();
    let second_line_first = tied && second_line_first.fetch_not(Ordering::Relaxed);
    let (from_first, from_second) = share(places, first_line.len(), second_line.len(), second_line_first);
    first_line.truncate(from_first);
    second_line.truncate(from_second);
    let first_line = first_line.into_iter().map(|id| (Line::First, id));
    let second_line = second_line.into_iter().map(|id| (Line::Second, id));
    Ok(Chosen {
        orders: first_line.chain(second_line).collect(),
        passed_over,
    })
}

/// Picks the given orders that may start, at most `places` and at most one suspect.
pub(super) fn pick(
    group: &Group<'_>,
    given: &[OrderId],
    request: &ClaimRequest,
    places: usize,
    options: &StartOptions,
) -> Result<Chosen, rusqlite::Error> {
    let mut suspects = 0;
    let mut orders = Vec::new();
    let mut statement = group.connection.prepare_cached(include_str!("pick.sql"))?;
    let mut rows = statement.query((json_array(given), group.now, request.suspect))?;
    while let Some(row) = rows.next()? {
        let order_id: OrderId = row.get(0)?;
        let line = if row.get(1)? { Line::First } else { Line::Second };
        let is_suspect: bool = row.get(2)?;
        if orders.len() >= places || options.excludes(order_id) || (is_suspect && suspects > 0) {
            continue;
        }
        suspects += usize::from(is_suspect);
        orders.push((line, order_id));
    }
    // The caller decides the order of these starts, except among the orders of one user.
    let passed_over = match group.totals.ordering {
        order::Ordering::None => vec![EVERY_EARLIER],
        order::Ordering::User { .. } => Vec::new(),
    };
    Ok(Chosen { orders, passed_over })
}

fn first_line(group: &Group<'_>, limit: usize) -> Result<Vec<OrderId>, rusqlite::Error> {
    group
        .connection
        .prepare_cached(include_str!("first_line.sql"))?
        .query_map([limit], |row| row.get(0))?
        .collect()
}

fn second_line(
    group: &Group<'_>,
    places: usize,
    suspect: bool,
    options: &StartOptions,
) -> Result<Vec<OrderId>, rusqlite::Error> {
    let due = |row: &Row<'_>| Ok((row.get::<_, Timestamp>(0)?, row.get::<_, OrderId>(1)?));
    let is_free = |found: &(Timestamp, OrderId)| !options.excludes(found.1);
    let spare = options.excluded.len();
    let mut line = group
        .connection
        .prepare_cached(include_str!("second_line.sql"))?
        .query_map((group.now, places + spare), due)?
        .collect::<Result<Vec<_>, _>>()?;
    line.retain(is_free);
    if suspect {
        let suspects = group
            .connection
            .prepare_cached(include_str!("second_line_suspect.sql"))?
            .query_map((group.now, 1 + spare), due)?
            .collect::<Result<Vec<_>, _>>()?;
        line.extend(suspects.into_iter().find(is_free));
        line.sort_unstable();
    }
    Ok(line.into_iter().map(|(_, order_id)| order_id).collect())
}

/// The ids as a JSON array.
pub(super) fn json_array(ids: &[OrderId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("[{}]", ids.join(","))
}
