//! The events of a snapshot: of its orders, and of the feed.

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::order::OrderId;
use crate::store::FEED_EVENTS_MAX;
use crate::store::postgres::class_pool::ReadSource;
use crate::store::postgres::failure::PgFailure;
use crate::store::postgres::rows::{self, EVENT_COLUMNS, EVENT_COLUMNS_COUNT};
use crate::store::snapshot::EventRecord;

/// The first position of unnumbered events: a snapshot numbers nothing, and shows them after the numbered ones in the
/// order in which they will be numbered. The low bits are the place in the batch, the others the batch.
const UNNUMBERED: i64 = 1 << 61;
const PLACE_BITS: u32 = 20;

/// The earlier orders that the claim of a first attempt passed over.
const PASSED_OVER: &str = "case when kind = 1 and attempt = 1 then
    array(select id from unnest(passed_over) as id where id < order_id order by id) end";

/// Reads the events of orders, by version. An event that is missing in its batch has position 0.
pub(super) async fn of(
    source: &impl ReadSource,
    order_ids: &[i64],
) -> Result<HashMap<OrderId, Vec<EventRecord>>, PgFailure> {
    let statement = format!(
        "select {EVENT_COLUMNS},
             coalesce(place + coalesce(first_position - 1, {UNNUMBERED} + (batch << {PLACE_BITS})), 0), {PASSED_OVER}
         from (
             select e.*, b.first_position, b.passed_over, array_position(b.order_ids, e.order_id) as place
             from unnest($1::int8[]) as asked (id)
                 cross join lateral (select * from orderly.order_events where order_id = asked.id offset 0) as e
                 left join lateral (select * from orderly.batches as b where b.batch = e.batch offset 0) as b on true
         ) as found
         order by order_id, version"
    );
    let order_ids = order_ids.to_vec();
    let found = source.read(&statement, &[(&order_ids, Type::INT8_ARRAY)]).await?;
    let mut events: HashMap<OrderId, Vec<EventRecord>> = HashMap::new();
    for row in &found {
        let record = event_record(row)?;
        events.entry(record.event.order_id).or_default().push(record);
    }
    Ok(events)
}

fn event_record(row: &Row) -> Result<EventRecord, PgFailure> {
    let passed_over: Option<Vec<i64>> = rows::column(row, EVENT_COLUMNS_COUNT + 1)?;
    Ok(EventRecord {
        position: rows::column(row, EVENT_COLUMNS_COUNT)?,
        event: rows::event(row, 0)?,
        passed_over: passed_over.unwrap_or_default().into_iter().map(OrderId).collect(),
    })
}

/// Reads numbered events, then unnumbered ones. Events of removed orders are left out.
pub(super) async fn after(
    source: &impl ReadSource,
    after: i64,
    limit: usize,
) -> Result<Vec<EventRecord>, PgFailure> {
    let limit = rows::limit(limit.min(FEED_EVENTS_MAX));
    let is_there = "exists (select from orderly.orders as o where o.order_id = events.order_id)";
    let statement = format!(
        "select {EVENT_COLUMNS}, position, {PASSED_OVER}
         from orderly.events
         where first_position >= coalesce(
                 (select first_position from orderly.batches
                 where first_position <= $1 order by first_position desc limit 1), 0)
             and position > $1 and {is_there}
         order by first_position, place limit $2"
    );
    let numbered = source
        .read(&statement, &[(&after, Type::INT8), (&limit, Type::INT8)])
        .await?;
    if !numbered.is_empty() {
        return numbered.iter().map(event_record).collect();
    }
    let after = after.max(UNNUMBERED) - UNNUMBERED;
    let batch = after >> PLACE_BITS;
    let place = after - (batch << PLACE_BITS);
    let statement = format!(
        "select {EVENT_COLUMNS}, {UNNUMBERED} + (batch << {PLACE_BITS}) + place, {PASSED_OVER}
         from orderly.events
         where first_position is null and batch >= $1 and (batch > $1 or place > $2) and {is_there}
         order by batch, place limit $3"
    );
    let unnumbered = source
        .read(
            &statement,
            &[(&batch, Type::INT8), (&place, Type::INT8), (&limit, Type::INT8)],
        )
        .await?;
    unnumbered.iter().map(event_record).collect()
}
