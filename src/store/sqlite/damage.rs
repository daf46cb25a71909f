//! Damage to the file and to what it holds, for `orderly verify`.

use rusqlite::Connection;

use super::group::Totals;

/// Runs SQLite's own check and looks for inconsistencies.
pub(super) fn find(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    let mut findings = connection
        .prepare("pragma integrity_check")?
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    findings.retain(|finding| finding != "ok");
    findings.extend(inconsistencies(connection)?);
    Ok(findings)
}

/// Inconsistencies that no single order shows: events without an order, a next number that is taken, a feed with gaps.
fn inconsistencies(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    let number = |statement: &str| connection.query_row(statement, [], |row| row.get::<_, Option<i64>>(0));
    let orphans = number(
        "select count(*) from events
         where not exists (select 1 from orders where orders.order_id = events.order_id)",
    )?;
    let totals = Totals::read(connection)?;
    let mut findings = Vec::new();
    if orphans != Some(0) {
        findings.push(format!(
            "{} events belong to no order",
            orphans.unwrap_or_default()
        ));
    }
    for (what, given_out, newest) in [
        (
            "order id",
            totals.last_order_id,
            number("select max(order_id) from orders")?,
        ),
        (
            "event position",
            totals.last_position,
            number("select max(position) from events")?,
        ),
    ] {
        if newest.is_some_and(|newest| newest > given_out) {
            findings.push(format!(
                "the next {what} would be {}, which is taken",
                given_out + 1
            ));
        }
    }
    let (complete_after, last) = (totals.complete_after, totals.last_position);
    let stored = connection.query_row(
        "select count(*) from events where position > ?1",
        [complete_after],
        |row| row.get::<_, i64>(0),
    )?;
    if stored != last - complete_after {
        findings.push(format!(
            "the feed has {stored} events after position {complete_after}, {} were written",
            last - complete_after
        ));
    }
    Ok(findings)
}
