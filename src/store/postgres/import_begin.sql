-- Begins the transaction of a copy. Whoever else would write waits or is refused, so that what is empty stays so until the
-- copy is committed; readers go on. A copy that froze is given up after ten minutes.
begin isolation level read committed read write;
set local synchronous_commit = on;
set local statement_timeout = 600000;
set local lock_timeout = 5000;
set local idle_in_transaction_session_timeout = 600000;
-- The copied events of a page of orders are found by their key: the planner knows nothing of a temporary table.
set local enable_hashjoin = off;
set local enable_mergejoin = off;
lock table orderly.orders, orderly.history, orderly.first_line, orderly.second_line, orderly.blocked, orderly.leases,
    orderly.failed, orderly.cancelled, orderly.batches, orderly.idempotency_keys, orderly.nodes, orderly.counters,
    orderly.queue, orderly.epochs in share row exclusive mode;
-- The copied events by order, for the orders' histories.
create temporary table copied_events (
    order_id bigint, version integer, kind smallint, at timestamptz, attempt integer, node bigint, batch bigint, error text,
    primary key (order_id, version)
) on commit drop
