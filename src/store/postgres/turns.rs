//! The orders of a user one after another (`ORDERLY_ORDERING=user`): among those that are Pending, one has its turn and stands in
//! a line, and the others wait for it in `blocked`. Statements that run at the same time do not see each other, so none of them
//! can tell whose turn it is. Each notes the user whose orders it changes, and claims, which come one after another, decide: a
//! claim first sees to what was noted, then takes what is in the lines. See
//! docs/decisions/0013-orders-of-a-user-one-after-another.md.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use super::failure::Failure;
use super::link::Link;
use super::locks::CLAIM_LOCK;
use super::message::with_numbers;
use super::rows;
use crate::lease::NodeId;
use crate::order::Ordering;
use crate::store::codes;

/// For a change of the ordering, which looks at all orders that wait; the statement's own limit is a little shorter.
const SET_TIME_MAX: Duration = Duration::from_secs(610);
/// Changes noted for users that one claim sees to: some milliseconds of work under the lock.
pub(super) const UNSEEN_MAX: i64 = 500;

/// Makes the store's ordering what this node was told, unless another node lives. Answers whether it is.
pub(super) async fn set_ordering(link: &mut Link, ordering: Ordering, node: NodeId) -> Result<bool, Failure> {
    link.state().require_known_nodes()?;
    let code = i64::from(codes::ordering_code(ordering));
    let message = with_numbers(
        include_str!("set_ordering.sql"),
        &[
            (":ordering", code),
            (":lock", CLAIM_LOCK),
            (":node", rows::node_code(node)),
        ],
    );
    // Done twice it does no harm, so a lost answer is asked for again by the next claim.
    let answer = link.fly(&message, SET_TIME_MAX).await?;
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
