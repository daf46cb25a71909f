//! The epochs of a file. Nothing caches them: there are few, and only `restored` adds one, while no server has the file open.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::epoch::{EpochIdentity, TokenSecret};
use crate::order::OrderId;
use crate::store::{Epoch, Epochs, FeedPosition, JUMPS_MAX, NewEpoch, RESTORE_JUMP, next_number};
use crate::time::Timestamp;

pub(super) fn read(connection: &Connection) -> Result<Epochs, rusqlite::Error> {
    let epochs = connection
        .prepare_cached("select epoch, identity, secret, first_order_id, after_position, began_at from epochs order by epoch")?
        .query_map([], epoch)?
        .collect::<Result<Vec<_>, _>>()?;
    Epochs::of(epochs).ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn epoch(row: &Row<'_>) -> Result<Epoch, rusqlite::Error> {
    Ok(Epoch {
        number: row.get(0)?,
        identity: EpochIdentity(row.get::<_, i64>(1)?.cast_unsigned()),
        secret: TokenSecret::of(row.get(2)?),
        first_order_id: OrderId(row.get(3)?),
        after: FeedPosition(row.get(4)?),
        began_at: row.get(5)?,
    })
}

/// Begins an epoch whose order ids lie far beyond those that may have been given out since the backup.
pub(super) fn begin(connection: &Connection, now: Timestamp) -> Result<NewEpoch, rusqlite::Error> {
    let ids_left_out = RESTORE_JUMP * rand::random_range(1..=JUMPS_MAX);
    connection.execute(
        "update counters set last_order_id = last_order_id + ?1",
        [ids_left_out],
    )?;
    let newest = connection.query_row("select max(epoch) from epochs", [], |row| row.get(0))?;
    let stored_until = connection
        .query_row(
            "select at from events order by position desc limit 1",
            [],
            |row| row.get(0),
        )
        .optional()?;
    connection.query_row(
        "insert into epochs (epoch, identity, secret, first_order_id, after_position, began_at)
         select ?1, random(), randomblob(16), last_order_id + 1, last_position, ?2
         from counters
         returning epoch, first_order_id, after_position",
        (next_number(newest, now), now),
        |row| {
            Ok(NewEpoch {
                number: row.get(0)?,
                first_order_id: OrderId(row.get(1)?),
                after: FeedPosition(row.get(2)?),
                stored_until,
            })
        },
    )
}
