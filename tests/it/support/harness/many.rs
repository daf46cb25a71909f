//! More orders than a page looks at.

use orderly::order::{BATCH_ORDERS_MAX, NewOrder, OrderId};
use orderly::store::PAGE_ROWS_EXAMINED_MAX;

use super::Harness;

impl Harness {
    /// Accepts more orders than one page looks at, and returns one of them.
    pub async fn accept_more_than_a_page_looks_at(&self, order: &NewOrder) -> OrderId {
        let mut last = OrderId(0);
        for _ in 0..=PAGE_ROWS_EXAMINED_MAX / BATCH_ORDERS_MAX {
            last = self.accept(vec![order.clone(); BATCH_ORDERS_MAX]).await[0];
        }
        last
    }
}
