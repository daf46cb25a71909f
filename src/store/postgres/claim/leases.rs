//! The leases of a claim: taken from its answer, or read afterwards when their texts are long.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use tokio_postgres::types::Type;

use super::Claimer;
use super::answer::{Answer, Granted};
use crate::lease::Lease;
use crate::order::OrderStatus;
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::postgres::failure::PgFailure;
use crate::store::postgres::functions::named;
use crate::store::postgres::rows;
use crate::store::postgres::shared::Shared;
use crate::store::{ClaimRequest, Epochs, SUSPECT_CRASHES, codes};

/// The shortest and longest pause before the orders of a claim are read again.
const READ_AGAIN_MIN: Duration = Duration::from_millis(100);
const READ_AGAIN_MAX: Duration = Duration::from_secs(2);

/// Reads the current state of the claimed orders.
static READ_LEASES: LazyLock<String> = LazyLock::new(|| {
    let columns = order_columns!();
    let running = codes::status_code(OrderStatus::Processing);
    named(&format!(
        "select {columns}, fence, crashes from :view_orders($1) where status = {running}"
    ))
});

impl Claimer {
    /// Returns the leases that a claim granted, in its order.
    pub(super) async fn leases(
        &mut self,
        answer: &mut Answer,
        request: &ClaimRequest,
        shared: &Shared,
    ) -> Result<Vec<Lease>, PgFailure> {
        if answer.granted.is_empty() {
            return Ok(Vec::new());
        }
        let epochs = self.epochs(answer, request, shared).await?;
        match answer.leases(request.node, &epochs)? {
            Some(leases) => Ok(leases),
            None => self.read_leases(&answer.granted, request, &epochs).await,
        }
    }

    /// Returns the epochs up to that of the answer. Tries again after failures: the leases belong to this node, and
    /// abandoned ones would have to expire.
    async fn epochs(
        &mut self,
        answer: &Answer,
        request: &ClaimRequest,
        shared: &Shared,
    ) -> Result<Epochs, PgFailure> {
        let mut pause = READ_AGAIN_MIN;
        loop {
            match shared.epochs.up_to(answer.epoch, &mut self.connection).await {
                Err(_) if pause <= READ_AGAIN_MAX.min(request.lease / 4) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                read => return read,
            }
        }
    }

    /// Reads the leases. Leaves out those that were lost or cancelled since.
    async fn read_leases(
        &mut self,
        granted: &[Granted],
        request: &ClaimRequest,
        epochs: &Epochs,
    ) -> Result<Vec<Lease>, PgFailure> {
        let order_ids: Vec<i64> = granted.iter().map(|lease| lease.order_id).collect();
        let mut pause = READ_AGAIN_MIN;
        let found = loop {
            let read = self
                .connection
                .read(&READ_LEASES, &[(&order_ids, Type::INT8_ARRAY)])
                .await;
            match read {
                // The leases belong to this node; abandoned ones would have to expire.
                Err(_) if pause <= READ_AGAIN_MAX.min(request.lease / 4) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                read => break read?,
            }
        };
        let mut leases = HashMap::new();
        for row in &found {
            let fence = rows::large_count(row, ORDER_COLUMNS)?;
            let suspect = rows::count(row, ORDER_COLUMNS + 1)? >= SUSPECT_CRASHES;
            let lease = epochs.lease(rows::order(row)?, fence, request.node, suspect);
            leases.insert(lease.order.order_id.0, lease);
        }
        let still_granted = |granted: &Granted| {
            let lease = leases.remove(&granted.order_id)?;
            (rows::fence_code(lease.fence) == granted.fence).then_some(lease)
        };
        Ok(granted.iter().filter_map(still_granted).collect())
    }
}
