//! Leases that external workers hold: looked up by token, kept for longer, and ended.

use tokio_postgres::types::Type;

use super::failure::{Failure, told};
use super::group::Groups;
use super::links::Links;
use super::locked::Patience;
use super::probe;
use super::rows;
use super::settle::{self, Settle, micros};
use super::shared::Shared;
use super::unanswered::Attempt;
use super::view::View;
use crate::epoch::Token;
use crate::lease::{LeaseKey, Outcome};
use crate::order::{OrderId, OrderStatus};
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{Held, LatestClaim, OutsideHold, Settled, SettledOutside, StoreError};

/// The same hold may be taken twice: only its time is counted from the later one.
pub(super) async fn hold(
    links: &Links,
    shared: &Shared,
    key: LeaseKey,
    hold: OutsideHold,
) -> Result<Held, Failure> {
    let mut patience = Patience::new();
    loop {
        let answer = links
            .repeatable(
                include_str!("hold_outside.sql"),
                &[
                    (&key.order_id.0, Type::INT8),
                    (&rows::fence_code(key.fence), Type::INT8),
                    (&micros(hold.lease), Type::INT8),
                    (&micros(hold.run_max), Type::INT8),
                ],
            )
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return Err(probe::judged(failure, &mut links.link()).await),
        };
        let Some(row) = answer.first() else {
            return Ok(Held::Stale);
        };
        if let Some(until) = rows::column(row, 0)? {
            return Ok(Held::Until(until));
        }
        patience.wait(key.order_id, &shared.locked).await?;
    }
}

/// The ways to the database that the result of an external worker takes.
#[derive(Clone, Copy)]
pub(super) struct Ways<'s> {
    pub settles: &'s Groups<Settle>,
    pub views: &'s Groups<View>,
    pub acts: &'s Links,
}

/// Ends the attempt that the token names, if its order was handed out; reads the order afterwards.
pub(super) async fn settle(
    ways: Ways<'_>,
    shared: &Shared,
    id: OrderId,
    token: Token,
    outcome: Outcome,
) -> Result<SettledOutside, StoreError> {
    let gave = shared.epochs.gave(id, token, &mut ways.acts.link()).await;
    let settled = if told(gave, "check a token")? {
        let attempt = Attempt {
            order_id: id,
            fence: token.fence(),
            node: None,
        };
        settle::settle(ways.settles, shared, attempt, outcome).await?
    } else {
        Settled::Stale
    };
    match settled {
        Settled::Done(_) => Ok(match ways.views.call(View { id }).await {
            Ok(Some(view)) => SettledOutside::Done(view.order),
            // The result is stored: the order is not unknown.
            Ok(None) => SettledOutside::Unread(StoreError::Unexpected {
                attempted: "read the order of a stored result",
                source: anyhow::anyhow!("retention took order {id} out since its result was stored"),
            }),
            Err(error) => SettledOutside::Unread(error),
        }),
        Settled::Stale => {
            let latest = told(latest_claim(ways.acts, shared, id).await, "read an order's claim")?;
            // A result that is sent again may be the one that completed it.
            let completed = |claim: &LatestClaim| claim.order.status == OrderStatus::Completed;
            if latest.as_ref().is_some_and(completed) {
                told(ways.acts.confirmed().await, "confirm a stored result")?;
            }
            Ok(latest.map_or(SettledOutside::UnknownOrder, SettledOutside::Lost))
        }
    }
}

pub(super) async fn latest_claim(
    links: &Links,
    shared: &Shared,
    id: OrderId,
) -> Result<Option<LatestClaim>, Failure> {
    let mut link = links.link();
    let found = link
        .read(
            concat!(
                "select ",
                order_columns!(),
                ", fence, node, handed_out, (select identity from orderly.epochs order by epoch desc limit 1)
                 from orderly.order_state where order_id = $1"
            ),
            &[(&id.0, Type::INT8)],
        )
        .await?;
    let Some(row) = found.first() else {
        return Ok(None);
    };
    let newest = rows::identity(row, ORDER_COLUMNS + 3)?;
    let epochs = shared.epochs.up_to(newest, &mut link).await?;
    let fence = rows::large_count(row, ORDER_COLUMNS)?;
    let node: Option<i64> = rows::column(row, ORDER_COLUMNS + 1)?;
    Ok(Some(LatestClaim {
        order: rows::order(row)?,
        key: node.map(|node| LeaseKey {
            order_id: id,
            fence,
            node: rows::node_of(node),
        }),
        token: epochs.token(id, fence),
        handed_out: rows::column(row, ORDER_COLUMNS + 2)?,
    }))
}
