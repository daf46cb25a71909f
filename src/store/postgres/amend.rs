//! Amends orders.

use tokio_postgres::types::{ToSql, Type};

use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::locked_change::Open;
use super::locked_orders::LockRetry;
use super::shared::Shared;
use super::{milestone, probe, query, rows};
use crate::event::EventDetail;
use crate::order::{OrderId, OrderStatus, Patch, Reference};
use crate::store::amend::refusal;
use crate::store::{Amended, CLIENT_EVENTS_MAX, codes};

const AMEND: &str = concat!(include_str!("lock_orders.sql"), include_str!("amend.sql"));

pub(super) async fn amend(
    pool: &ClassPool,
    shared: &Shared,
    id: OrderId,
    version: u32,
    patch: &Patch,
) -> Result<Amended, PgFailure> {
    let mut retry = LockRetry::new();
    loop {
        let Some(order) = query::order(pool, id).await? else {
            return Ok(Amended::Unknown);
        };
        let clock = pool.read("select clock_timestamp()", &[]).await?;
        let now = rows::column(rows::only(&clock)?, 0)?;
        if let Some(refused) = refusal(&order, version, patch, now) {
            return Ok(refused);
        }
        let (request, fields) = patch.clone().apply(&order.request);
        if fields.is_empty() {
            pool.confirm_reads().await?;
            return Ok(Amended::Done(order));
        }
        if order.version >= CLIENT_EVENTS_MAX
            && milestone::made_by_clients(pool, id).await? >= CLIENT_EVENTS_MAX.into()
        {
            return Ok(Amended::TooManyEvents(order));
        }
        let detail = EventDetail {
            fields,
            ..EventDetail::default()
        };
        let statuses = [OrderStatus::Pending, OrderStatus::Failed].map(codes::stored_status_code);
        let reference = request.reference.as_ref().map(Reference::as_str);
        let slot = Shared::random_counter_slot();
        let parameters: [(&(dyn ToSql + Sync), Type); 15] = [
            (&vec![id.0], Type::INT8_ARRAY),
            (&slot, Type::INT2),
            (&statuses.to_vec(), Type::INT2_ARRAY),
            (&(Open::Waiting as i16), Type::INT2),
            (&detail.to_stored(), Type::TEXT),
            (&false, Type::BOOL),
            (&None::<&str>, Type::TEXT),
            (&i32::try_from(version).unwrap_or(i32::MAX), Type::INT4),
            (&request.items.codes(), Type::TEXT),
            (&request.items.lines(), Type::TEXT),
            (&request.total_amount.minor_units(), Type::INT8),
            (&reference, Type::TEXT),
            (&request.metadata.as_deref(), Type::TEXT),
            (&request.start_after, Type::TIMESTAMPTZ),
            (&request.deadline, Type::TIMESTAMPTZ),
        ];
        let changed = pool.execute_once(AMEND, &parameters).await;
        let changed = changed.inspect_err(|failure| shared.note_possible_commit(failure));
        let changed = match changed {
            Ok(changed) => changed,
            Err(failure) => {
                return Err(probe::refusal_if_store_works(failure, &mut pool.connection()).await);
            }
        };
        if changed.is_empty() {
            // Locked by another session, or changed since it was read.
            retry.wait(id, &shared.locked).await?;
            continue;
        }
        shared.work_committed();
        shared.wakeups.notify_timers();
        let order = query::order(pool, id).await.map_err(PgFailure::after_commit)?;
        return Ok(order.map_or(Amended::Unknown, Amended::Done));
    }
}
