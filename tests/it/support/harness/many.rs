//! A harness whose store holds more than a page looks at.

use orderly::order::{BATCH_ORDERS_MAX, NewOrder, OrderId};
use orderly::store::PAGE_ROWS_LOOKED_AT_MAX;

use super::Harness;

impl Harness {
    /// So many that a page in which none of them belongs ends before the last of them. Answers one of them.
    pub async fn accept_more_than_a_page_looks_at(&self, order: &NewOrder) -> OrderId {
        let mut last = OrderId(0);
        for _ in 0..=PAGE_ROWS_LOOKED_AT_MAX / BATCH_ORDERS_MAX {
            last = self.accept(vec![order.clone(); BATCH_ORDERS_MAX]).await[0];
        }
        last
    }
}
