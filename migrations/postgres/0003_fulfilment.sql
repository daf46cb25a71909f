-- Processing by others: results, leases that workers outside hold, and the orders of a user one after another. A node that
-- does not know these columns works on beside one that does, as long as no user's orders wait for each other.

-- What the processor gave when it completed the order: JSON text.
alter table orderly.orders add column result text;
-- Processing: the lease is held by a worker outside, and does not end with a node.
alter table orderly.orders add column outside boolean not null default false;
-- Others than the node that claimed know the token of the latest claim: their results count.
alter table orderly.orders add column handed_out boolean not null default false;
-- Null where the orders of a user do not wait for each other. Otherwise 0 while Pending for the one of its user that may
-- start, 1 for those that wait for it; 2 from the change that gives another one its turn, or may take one, until a
-- claim has seen to it: claims come one after another, so they decide whose turn it is.
alter table orderly.orders add column turn smallint;

-- The same lines for orders whose turn it is, on other expressions, so that the indexes of all orders cannot serve their order.
create index orders_turn_first on orderly.orders ((order_id - 0)) where status = 0 and due_at is null and turn = 0;
create index orders_turn_due on orderly.orders (due_at, (order_id - 0))
    where status = 0 and due_at is not null and turn = 0 and crashes < 2;
create index orders_turn_suspect on orderly.orders (due_at, (order_id - 0))
    where status = 0 and due_at is not null and turn = 0 and crashes >= 2;
-- The one of a user whose turn it is.
create index orders_turn on orderly.orders (user_id) where status = 0 and turn = 0;
-- Those that wait for another order of their user, the longest waiting first.
create index orders_blocked on orderly.orders ((coalesce(due_at, created_at))) where status = 0 and turn = 1;
-- What the next claim has to see to.
create index orders_unseen on orderly.orders ((order_id + 0)) where turn = 2;

-- Whether the node claims, as of its last heartbeat: 0 closed (it does), 1 open, 2 half open.
alter table orderly.nodes add column breaker smallint not null default 0;
-- What the node was told of the orders of a user, as in orderly.queue.
alter table orderly.nodes add column ordering smallint not null default 0;
-- What processes the orders that the node claims, as in orderly.queue; null where the node did not say.
alter table orderly.nodes add column processor smallint;

-- Whether the orders of one user wait for each other: 0 no, 1 yes, 2 yes, for failed ones too.
alter table orderly.queue add column ordering smallint not null default 0;
-- The highest order id given out when that was last changed: later orders were never started by another rule.
alter table orderly.queue add column ordering_from bigint not null default 0;
-- What processes the orders: 0 a simulation, 1 a service, 2 workers that take them, 3 or 4 the program itself. Nodes that
-- were told otherwise start nothing.
alter table orderly.queue add column processor smallint not null default 0;
