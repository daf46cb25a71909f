//! Leases of external workers: looked up by token, extended, and ended.

use tokio_postgres::types::Type;

use super::class_pool::ClassPool;
use super::failure::{PgFailure, to_store_result};
use super::group::Groups;
use super::locked_orders::LockRetry;
use super::lost_answers::Attempt;
use super::probe;
use super::rows;
use super::settle::{self, Settle, micros};
use super::shared::Shared;
use super::view::View;
use crate::epoch::Token;
use crate::lease::{LeaseKey, Outcome};
use crate::order::{OrderId, OrderStatus};
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{ExternalHold, ExternalLease, LatestClaim, Settled, SettledExternal, StoreError};

/// Transfers a lease to an external worker, or extends it. Running twice does no harm: the time counts from the later
/// run.
pub(super) async fn hold(
    pool: &ClassPool,
    shared: &Shared,
    key: LeaseKey,
    hold: ExternalHold,
) -> Result<ExternalLease, PgFailure> {
    let mut retry = LockRetry::new();
    loop {
        let answer = pool
            .execute_idempotent(
                include_str!("hold_external.sql"),
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
            Err(failure) => return Err(probe::refusal_if_store_works(failure, &mut pool.connection()).await),
        };
        let Some(row) = answer.first() else {
            return Ok(ExternalLease::Stale);
        };
        if let Some(until) = rows::column(row, 0)? {
            return Ok(ExternalLease::Until(until));
        }
        retry.wait(key.order_id, &shared.locked).await?;
    }
}

/// The connections that the result of an external worker needs.
#[derive(Clone, Copy)]
pub(super) struct Pools<'s> {
    pub settles: &'s Groups<Settle>,
    pub views: &'s Groups<View>,
    pub order_actions: &'s ClassPool,
}

/// Ends the attempt that the token names, if its order was handed out, and reads the order afterwards.
pub(super) async fn settle(
    pools: Pools<'_>,
    shared: &Shared,
    id: OrderId,
    token: Token,
    outcome: Outcome,
) -> Result<SettledExternal, StoreError> {
    let gave = shared
        .epochs
        .gave(id, token, &mut pools.order_actions.connection())
        .await;
    let settled = if to_store_result(gave, "check a token")? {
        let attempt = Attempt {
            order_id: id,
            fence: token.fence(),
            node: None,
        };
        settle::settle(pools.settles, shared, attempt, outcome).await?
    } else {
        Settled::Stale
    };
    match settled {
        Settled::Done(_) => Ok(match pools.views.call(View { id }).await {
            Ok(Some(view)) => SettledExternal::Done(view.order),
            // The result is stored, so the order is not unknown.
            Ok(None) => SettledExternal::Unread(StoreError::Unexpected {
                attempted: "read the order of a stored result",
                source: anyhow::anyhow!("retention removed order {id} after its result was stored"),
            }),
            Err(error) => SettledExternal::Unread(error),
        }),
        Settled::Stale => {
            let latest = to_store_result(
                latest_claim(pools.order_actions, shared, id).await,
                "read an order's claim",
            )?;
            // A result that is sent again may be the one that completed the order.
            let completed = |claim: &LatestClaim| claim.order.status == OrderStatus::Completed;
            if latest.as_ref().is_some_and(completed) {
                to_store_result(
                    pools.order_actions.confirm_reads().await,
                    "confirm a stored result",
                )?;
            }
            Ok(latest.map_or(SettledExternal::UnknownOrder, SettledExternal::Lost))
        }
    }
}

/// Reads the latest claim of an order; `None` when there is no such order.
pub(super) async fn latest_claim(
    pool: &ClassPool,
    shared: &Shared,
    id: OrderId,
) -> Result<Option<LatestClaim>, PgFailure> {
    let mut connection = pool.connection();
    let found = connection
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
    let epochs = shared.epochs.up_to(newest, &mut connection).await?;
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
