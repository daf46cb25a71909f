//! Beginning an epoch. Whether the server is still that of the newest one is asked inside the messages that give something out
//! (`epoch_here.sql`); `link` begins one where it is not, and `restored` where an operator says so.

use std::sync::LazyLock;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::answered::answered;
use super::connect::Parameters;
use super::failure::Failure;
use super::functions::named;
use super::locks::EPOCH_LOCK;
use super::rows;
use crate::store::{FAILOVER_JUMP, JUMPS_MAX, RESTORE_JUMP};

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
    /// The operator says that the store is a backup.
    Restored,
}

/// Reports whether an epoch began. None does where another node was faster, or, for [`Cause::Restored`], where a node is alive.
pub(super) async fn begin(client: &Client, cause: Cause) -> Result<bool, Failure> {
    let restored = cause == Cause::Restored;
    let jump = if restored { RESTORE_JUMP } else { FAILOVER_JUMP };
    let ids_left_out = jump * rand::random_range(1..=JUMPS_MAX);
    let parameters: Parameters<'_> = &[
        (&EPOCH_LOCK, Type::INT8),
        (&ids_left_out, Type::INT8),
        (&restored, Type::BOOL),
    ];
    let begun = answered(client.query_typed(&BEGIN, parameters)).await?;
    let row = rows::only(&begun)?;
    let Some(number) = rows::column::<Option<i64>>(row, 0)? else {
        return Ok(false);
    };
    if cause == Cause::OtherServer {
        tell(number, row)?;
    }
    Ok(true)
}

/// The one node that began the epoch says so.
fn tell(number: i64, row: &Row) -> Result<(), Failure> {
    let (first_order_id, after): (i64, i64) = (rows::column(row, 1)?, rows::column(row, 2)?);
    let (was, now_is): (&str, &str) = (rows::column(row, 4)?, rows::column(row, 5)?);
    let stored_until: Option<&str> = rows::column(row, 3)?;
    let since = stored_until.map_or("at any time".to_owned(), |until| format!("after {until}"));
    tracing::warn!(
        epoch = number,
        first_order_id,
        after_position = after,
        "the database has changed from {was} to {now_is}: epoch {number} begins with order {first_order_id} and behind place \
         {after} of the feed. Orders and results that were confirmed {since} may be missing if the replication was \
         asynchronous or a backup was restored"
    );
    Ok(())
}
