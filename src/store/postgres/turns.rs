//! The orders of a user one after another (`ORDERLY_ORDERING=user`): among those that are Pending, one has its turn and the
//! others wait for it. Statements that run at the same time do not see each other, so none of them can tell whose turn it
//! is. Each marks what it changes, and claims, which come one after another, decide: a claim first sees to what was marked,
//! then takes those whose turn it is. See docs/decisions/0013-orders-of-a-user-one-after-another.md.

use std::borrow::Cow;
use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use super::CLAIM_LOCK;
use super::failure::Failure;
use super::link::Link;
use super::message::with_numbers;
use super::rows;
use crate::lease::NodeId;
use crate::order::{OnFailure, Ordering};
use crate::store::codes;

/// For a change of the ordering, which looks at all orders that wait; the statement's own limit is a little shorter.
const SET_TIME_MAX: Duration = Duration::from_secs(610);
/// Changed orders that one claim sees to: some milliseconds of work under the lock.
pub(super) const UNSEEN_MAX: i64 = 500;

/// The message of a claim, for stores of this ordering. The lines of those whose turn it is are the same lines with one more
/// condition; their indexes have expressions of their own, so that no other index can serve their order.
pub(super) fn claim_message(ordering: Ordering) -> Cow<'static, str> {
    let Ordering::User(on_failure) = ordering else {
        return include_str!("claim.sql").into();
    };
    let blocks = i64::from(on_failure == OnFailure::Block);
    let see_to = with_numbers(
        include_str!("see_to_turns.sql"),
        &[(":unseen_max", UNSEEN_MAX), (":blocks", blocks)],
    );
    lines(include_str!("claim_in_turn.sql"), ordering)
        .replace(
            "set local enable_sort = off;",
            "set local enable_sort = off;\nset local enable_incremental_sort = off;",
        )
        .replace("with moment as", &format!("{see_to}with moment as"))
        .replace(
            "and o.status + 0 = 0\n",
            // An earlier one may have come back that nobody has seen to yet.
            "and o.status + 0 = 0 and not exists (\n        \
                select from orderly.orders as earlier\n        \
                where earlier.user_id = o.user_id and earlier.status = 0 and earlier.turn = 2\n            \
                and earlier.order_id < o.order_id)\n",
        )
        .into()
}

/// The statement about lines of orders, for those among them whose turn it is.
pub(super) fn lines(statement: &str, ordering: Ordering) -> Cow<'_, str> {
    match ordering {
        Ordering::None => statement.into(),
        Ordering::User(_) => statement
            .replace("order_id + 0", "order_id - 0")
            .replace(
                "where status = 0 and due_at",
                "where status = 0 and turn = 0 and due_at",
            )
            .replace("order by due_at, order_id\n", "order by due_at, order_id - 0\n")
            .replace(
                "order by due_at, order_id limit",
                "order by due_at, order_id - 0 limit",
            )
            .replace("(due_at, order_id) <", "(due_at, order_id - 0) <")
            .replace(
                "order by due_at desc, order_id desc",
                "order by due_at desc, order_id - 0 desc",
            )
            .into(),
    }
}

/// Makes the store's ordering what this node was told, unless another node lives. Answers whether it is.
pub(super) async fn set_ordering(link: &mut Link, ordering: Ordering, node: NodeId) -> Result<bool, Failure> {
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
