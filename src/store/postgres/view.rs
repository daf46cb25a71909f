//! Reading single orders: reads that wait while the connections are busy go into one statement. It is sent after all of
//! them came, so each sees whatever was answered before it was asked.

use std::sync::LazyLock;

use tokio_postgres::types::Type;

use super::classes::Class;
use super::failure::Failure;
use super::functions::named;
use super::group::Call;
use super::link::Link;
use super::rows;
use super::shared::Shared;
use crate::order::OrderId;
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{FeedPosition, OrderView, StoreError};

pub(super) struct View {
    pub id: OrderId,
}

/// What one order counts for among the rows of a statement: the longest are 33 KB, so that no answer is longer than a few MB.
const ROWS_OF_AN_ORDER: usize = 10;

static STATEMENT: LazyLock<String> = LazyLock::new(|| {
    let columns = order_columns!();
    named(&format!(
        "select {columns}, epoch_identity, last_position, place from :view_orders($1)"
    ))
});

impl Call for View {
    type Answer = Option<OrderView>;
    /// Two may ask for one order.
    type Subject = std::convert::Infallible;
    const ATTEMPTED: &'static str = "read an order";
    const CLASS: Class = Class::Point;
    const STORES: bool = false;

    fn subject(&self) -> Option<Self::Subject> {
        None
    }

    fn rows(&self) -> usize {
        ROWS_OF_AN_ORDER
    }

    async fn carry_out(
        calls: &[&View],
        link: &mut Link,
        shared: &Shared,
    ) -> Result<Vec<Result<Option<OrderView>, StoreError>>, Failure> {
        let ids: Vec<i64> = calls.iter().map(|call| call.id.0).collect();
        let found = link.read(&STATEMENT, &[(&ids, Type::INT8_ARRAY)]).await?;
        let mut answers: Vec<_> = calls.iter().map(|_| Ok(None)).collect();
        let newest = found
            .first()
            .map(|row| rows::identity(row, ORDER_COLUMNS))
            .transpose()?;
        let epochs = match newest {
            Some(newest) => shared.epochs.up_to(newest, link).await?,
            None => return Ok(answers),
        };
        for row in &found {
            let place: i64 = rows::column(row, ORDER_COLUMNS + 2)?;
            let answer = usize::try_from(place - 1)
                .ok()
                .and_then(|place| answers.get_mut(place))
                .ok_or_else(|| Failure::undecodable("an order's place", place))?;
            *answer = Ok(Some(OrderView {
                order: rows::order(row)?,
                at: epochs.cursor(FeedPosition(rows::column(row, ORDER_COLUMNS + 1)?)),
            }));
        }
        Ok(answers)
    }
}
