//! Columns that both drivers read, in the order in which rows are decoded.

/// The columns of an order, for the head of a `select` or the tail of a `returning`.
macro_rules! order_columns {
    () => {
        "order_id, status, version, attempts, generation, created_at, processing_at, finished_at, due_at, \
         user_id, total_amount, item_ids, reference, last_error, metadata, result, user_name, currency, lines, \
         start_after, held_at, hold_reason, milestone, deadline, overdue"
    };
}
pub(super) use order_columns;

/// The number of columns in [`order_columns`], which is the index of the first further column.
pub(super) const ORDER_COLUMNS: usize = 25;

/// Columns of an event.
pub(super) const EVENT_COLUMNS: &str = "order_id, version, kind, status, at, attempt, node, error, detail";
/// The number of columns in [`EVENT_COLUMNS`], which is the index of the first further column.
pub(super) const EVENT_COLUMNS_COUNT: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_counts_match_the_lists() {
        assert_eq!(order_columns!().split(',').count(), ORDER_COLUMNS);
        assert_eq!(EVENT_COLUMNS.split(',').count(), EVENT_COLUMNS_COUNT);
    }
}
