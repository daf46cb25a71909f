//! Reads single orders: reads that wait while the connections are busy share one statement. The statement is sent
//! after all of them arrived, so each sees whatever was answered before it was asked.

use std::sync::LazyLock;

use tokio_postgres::types::Type;

use super::class_connection::ClassConnection;
use super::classes::Class;
use super::failure::PgFailure;
use super::functions::named;
use super::group::Call;
use super::rows;
use super::shared::Shared;
use crate::order::OrderId;
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{FeedPosition, OrderView, StoreError};

pub(super) struct View {
    pub id: OrderId,
}

/// The rows that one order counts as in a group: the longest orders have 33 KB, so that no answer exceeds a few MB.
const ROWS_OF_AN_ORDER: usize = 10;

static STATEMENT: LazyLock<String> = LazyLock::new(|| {
    let columns = order_columns!();
    named(&format!(
        "select {columns}, epoch_identity, last_position, place from :view_orders($1)"
    ))
});

impl Call for View {
    type Answer = Option<OrderView>;
    /// Several calls may read the same order.
    type Subject = std::convert::Infallible;
    const ATTEMPTED: &'static str = "read an order";
    const CLASS: Class = Class::PointRead;
    const STORES: bool = false;

    fn subject(&self) -> Option<Self::Subject> {
        None
    }

    fn rows(&self) -> usize {
        ROWS_OF_AN_ORDER
    }

    async fn run_group(
        calls: &[&View],
        connection: &mut ClassConnection,
        shared: &Shared,
    ) -> Result<Vec<Result<Option<OrderView>, StoreError>>, PgFailure> {
        let ids: Vec<i64> = calls.iter().map(|call| call.id.0).collect();
        let found = connection.read(&STATEMENT, &[(&ids, Type::INT8_ARRAY)]).await?;
        let mut answers: Vec<_> = calls.iter().map(|_| Ok(None)).collect();
        let newest = found
            .first()
            .map(|row| rows::identity(row, ORDER_COLUMNS))
            .transpose()?;
        let epochs = match newest {
            Some(newest) => shared.epochs.up_to(newest, connection).await?,
            None => return Ok(answers),
        };
        for row in &found {
            let place: i64 = rows::column(row, ORDER_COLUMNS + 2)?;
            let answer = usize::try_from(place - 1)
                .ok()
                .and_then(|place| answers.get_mut(place))
                .ok_or_else(|| PgFailure::undecodable("the index of an order", place))?;
            *answer = Ok(Some(OrderView {
                order: rows::order(row)?,
                at: epochs.cursor(FeedPosition(rows::column(row, ORDER_COLUMNS + 1)?)),
            }));
        }
        Ok(answers)
    }
}
