-- Processing by others: results, leases that workers outside hold, and the orders of a user one after another.

-- What the processor gave when it completed the order: JSON text.
alter table orders add column result text;
-- Processing: the lease is held by a worker outside, and does not end with a node.
alter table orders add column outside integer not null default 0;
-- Others than the node that claimed know the token of the latest claim: their results count.
alter table orders add column handed_out integer not null default 0;
-- Null where the orders of a user do not wait for each other. Otherwise, while Pending: 0 for the one of its user that may
-- start, 1 for those that wait for it.
alter table orders add column turn integer;

-- The same lines for orders whose turn it is.
create index orders_turn_first on orders (order_id) where status = 0 and due_at is null and turn = 0;
create index orders_turn_due on orders (due_at, order_id)
    where status = 0 and due_at is not null and turn = 0 and crashes < 2;
create index orders_turn_suspect on orders (due_at, order_id)
    where status = 0 and due_at is not null and turn = 0 and crashes >= 2;
-- The one of a user whose turn it is.
create index orders_turn on orders (user_id) where status = 0 and turn = 0;
-- Those that wait for another order of their user, the longest waiting first.
create index orders_blocked on orders (coalesce(due_at, created_at)) where status = 0 and turn = 1;

-- Whether the node claims, as of its last heartbeat: 0 closed (it does), 1 open, 2 half open.
alter table nodes add column breaker integer not null default 0;
-- What processes the orders that the node claims: 0 a simulation, 1 a service, 2 workers that take them, 3 or 4 the program
-- itself; null where the node did not say.
alter table nodes add column processor integer;

-- Whether the orders of one user wait for each other: 0 no, 1 yes, 2 yes, for failed ones too.
alter table counters add column ordering integer not null default 0;
-- The highest order id given out when that was last changed: later orders were never started by another rule.
alter table counters add column ordering_from integer not null default 0;
