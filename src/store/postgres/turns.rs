//! The orders of a user run one after another (`ORDERLY_ORDERING=user`): of the Pending orders of a user, one has the
//! turn and stands in a line; the others wait in `blocked`. Concurrent statements do not see each other, so none of
//! them can tell which order has the turn. Each notes the user whose orders it changes, and claims, which run one at
//! a time, decide: a claim processes the notes first, then takes orders from the lines. See
//! docs/decisions/0013-orders-of-a-user-one-after-another.md.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use super::advisory_locks::CLAIM_LOCK;
use super::class_connection::ClassConnection;
use super::failure::PgFailure;
use super::message::with_numbers;
use super::rows;
use crate::lease::NodeId;
use crate::order::Ordering;
use crate::store::codes;

/// The limit for a change of the ordering, which reads all waiting orders; the statement's own limit is slightly
/// shorter.
const SET_TIME_MAX: Duration = Duration::from_secs(610);
/// The most noted changes that one claim processes: some milliseconds of work under the lock.
pub(super) const UNSEEN_MAX: i64 = 500;

/// Sets the store's ordering to that of this node, unless another live node is configured differently. Reports
/// whether the store has it then.
pub(super) async fn set_ordering(
    connection: &mut ClassConnection,
    ordering: Ordering,
    node: NodeId,
) -> Result<bool, PgFailure> {
    connection.state().require_known_nodes()?;
    let code = i64::from(codes::ordering_code(ordering));
    let message = with_numbers(
        include_str!("set_ordering.sql"),
        &[
            (":ordering", code),
            (":lock", CLAIM_LOCK),
            (":node", rows::node_code(node)),
        ],
    );
    // Running twice does no harm, so the next claim asks again after a lost answer.
    let answer = connection.send_message_once(&message, SET_TIME_MAX).await?;
    let found = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row)
            if row
                .columns()
                .first()
                .is_some_and(|column| column.name() == "ordering") =>
        {
            row.get(0)
        }
        _ => None,
    });
    Ok(found == Some(code.to_string().as_str()))
}
