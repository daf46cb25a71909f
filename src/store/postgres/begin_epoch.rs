//! Begins epochs. Messages that give out ids or leases check whether the server is still that of the newest epoch
//! (`epoch_here.sql`). If it is not, `class_connection` begins one; `restored` begins one when an operator asks.

use std::sync::LazyLock;

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::advisory_locks::EPOCH_LOCK;
use super::await_answer::await_answer;
use super::connect::Parameters;
use super::failure::PgFailure;
use super::functions::named;
use super::rows;
use crate::order::OrderId;
use crate::store::{FAILOVER_JUMP, FeedPosition, JUMPS_MAX, NewEpoch, RESTORE_JUMP};

static BEGIN: LazyLock<String> = LazyLock::new(|| {
    named(
        "select begun, first_order_id, after_position, stored_until, was, now_is from :begin_epoch($1, $2, $3)",
    )
});

/// The reason to begin an epoch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The server is not that of the newest epoch.
    OtherServer,
    /// The operator says that the store was restored from a backup.
    Restored,
}

/// Begins an epoch. `None` when another node was faster or, for [`Cause::Restored`], when a node is alive.
pub(super) async fn begin(client: &Client, cause: Cause) -> Result<Option<NewEpoch>, PgFailure> {
    let restored = cause == Cause::Restored;
    let jump = if restored { RESTORE_JUMP } else { FAILOVER_JUMP };
    let ids_left_out = jump * rand::random_range(1..=JUMPS_MAX);
    let parameters: Parameters<'_> = &[
        (&EPOCH_LOCK, Type::INT8),
        (&ids_left_out, Type::INT8),
        (&restored, Type::BOOL),
    ];
    let begun = await_answer(client.query_typed(&BEGIN, parameters)).await?;
    let row = rows::only(&begun)?;
    let Some(number) = rows::column::<Option<i64>>(row, 0)? else {
        return Ok(None);
    };
    let begun = NewEpoch {
        number: number.unsigned_abs(),
        first_order_id: OrderId(rows::column(row, 1)?),
        after: FeedPosition(rows::column(row, 2)?),
        stored_until: rows::column(row, 3)?,
    };
    if cause == Cause::OtherServer {
        warn(&begun, rows::column(row, 4)?, rows::column(row, 5)?);
    }
    Ok(Some(begun))
}

/// Logs the epoch; only the node that began it does.
fn warn(begun: &NewEpoch, was: &str, now_is: &str) {
    let NewEpoch {
        number,
        first_order_id,
        after,
        ..
    } = begun;
    let since = begun
        .stored_until_text()
        .map_or("at any time".to_owned(), |until| format!("after {until}"));
    tracing::warn!(
        epoch = number,
        first_order_id = first_order_id.0,
        after_position = after.0,
        "the database has changed from {was} to {now_is}: epoch {number} begins with order {first_order_id} and after position \
         {} of the feed. Orders and results that were confirmed {since} may be missing if the replication was asynchronous or \
         a backup was restored; see After restoring a backup in docs/OPERATIONS.md",
        after.0
    );
}
