-- Begins the transaction of a copy. Other writers wait or fail, so that an empty database stays empty until the copy
-- commits; readers go on. The server ends a copy that froze after ten minutes.
begin isolation level read committed read write;
set local synchronous_commit = on;
set local statement_timeout = 600000;
set local lock_timeout = 5000;
set local idle_in_transaction_session_timeout = 600000;
-- Copied events are found by their key: the planner has no statistics on a temporary table.
set local enable_hashjoin = off;
set local enable_mergejoin = off;
lock table orderly.orders, orderly.history, orderly.first_line, orderly.second_line, orderly.blocked, orderly.set_aside, orderly.leases,
    orderly.failed, orderly.cancelled, orderly.overdue, orderly.deadlines, orderly.batches, orderly.idempotency_keys, orderly.nodes, orderly.counters,
    orderly.queue, orderly.epochs in share row exclusive mode;
-- The copied events by order, for the histories of the orders.
create temporary table copied_events (
    order_id bigint, version integer, kind smallint, at timestamptz, attempt integer, node bigint, batch bigint, error text, detail text,
    primary key (order_id, version)
) on commit drop
