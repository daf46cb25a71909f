//! The columns that every driver's tables share, in the order in which its rows are read.

/// The columns of an order, for the head of a `select` or the tail of a `returning`.
macro_rules! order_columns {
    () => {
        "order_id, status, version, attempts, generation, created_at, processing_at, finished_at, due_at, \
         user_id, total_amount, item_ids, reference, last_error, metadata, result"
    };
}
pub(super) use order_columns;

/// How many columns [`order_columns`] names: where further ones begin.
pub(super) const ORDER_COLUMNS: usize = 16;

/// The columns of an event.
pub(super) const EVENT_COLUMNS: &str = "order_id, version, kind, status, at, attempt, node, error";
/// Their number: the index where further ones begin.
pub(super) const EVENT_COLUMNS_COUNT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_counted_right() {
        assert_eq!(order_columns!().split(',').count(), ORDER_COLUMNS);
        assert_eq!(EVENT_COLUMNS.split(',').count(), EVENT_COLUMNS_COUNT);
    }
}
