-- Orders, their events, their keys, the nodes that process them, and the numbers about all of it: the same content as
-- the embedded store's, laid out for many writers. Amounts are minor units (cents).
-- status: 0 Pending, 1 Processing, 2 Completed, 3 Failed, 4 Cancelled.

-- Drawn inside the accepting transaction, so that an order whose 201 was sent before another's request has the lower
-- id. No cache: ids taken in advance by one session would break that.
create sequence orderly.order_ids;
create sequence orderly.batch_ids;

create table orderly.orders (
    order_id bigint primary key,
    status smallint not null check (status between 0 and 4),
    version integer not null,
    attempts integer not null,
    generation integer not null,
    -- Leases lost to dead nodes since acceptance or the last redrive.
    crashes integer not null,
    -- The fencing token of the latest claim; 0 before the first.
    token bigint not null,
    -- Who claimed it last; the node's 64 bits, shown in hexadecimal elsewhere.
    node bigint,
    -- Set exactly while Processing.
    lease_expires_at timestamptz,
    created_at timestamptz not null,
    -- The time of the latest event: an order's times never run backwards, whatever the server's clock does.
    changed_at timestamptz not null,
    processing_at timestamptz,
    -- Set exactly while Completed, Failed or Cancelled.
    finished_at timestamptz,
    -- Null in the first line (never started); otherwise, while Pending, when the order is due again.
    due_at timestamptz,
    user_id bigint not null,
    total_amount bigint not null check (total_amount between 0 and 99999999999999),
    item_ids text not null,
    reference text collate "C",
    last_error text,
    metadata text
) with (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- The first line: first attempts in order of acceptance. On an expression, so that no other index can serve its order:
-- with fresh statistics the planner otherwise walks the primary key past every finished order.
create index orders_first on orderly.orders ((order_id + 0)) where status = 0 and due_at is null;
-- The second line: retries, redrives and given-back orders by due time.
create index orders_due on orderly.orders (due_at, order_id) where status = 0 and due_at is not null and crashes < 2;
-- The second line's suspects, of which a node takes one at a time.
create index orders_suspect on orderly.orders (due_at, order_id)
    where status = 0 and due_at is not null and crashes >= 2;
-- Listings, newest first; a listing by user alone merges the five statuses. Also the orders being processed.
create index orders_status on orderly.orders (status, order_id);
create index orders_user on orderly.orders (user_id, status, order_id);
create index orders_reference on orderly.orders (reference, order_id) where reference is not null;

-- What one transaction did: its events have the places 0 to events - 1 in it. Drawn once all rows of the transaction
-- are locked, so that of two transactions that touch one order the later has the higher number.
create table orderly.batches (
    batch bigint primary key,
    events integer not null,
    -- The place in the feed of the batch's first event. Null until a reader of the feed numbers what is committed: the
    -- order of the numbers drawn is not the order of the commits, so a reader that follows those would skip.
    first_position bigint unique
);

create index batches_unnumbered on orderly.batches (batch) where first_position is null;

-- kind: 0 accepted, 1 started, 2 completed, 3 retry_scheduled, 4 failed, 5 lease_lost, 6 released, 7 cancelled, 8 redriven.
create table orderly.events (
    batch bigint not null,
    place integer not null,
    order_id bigint not null,
    version integer not null,
    kind smallint not null,
    status smallint not null,
    at timestamptz not null,
    attempt integer not null,
    node bigint,
    error text,
    primary key (batch, place)
);

create unique index events_order on orderly.events (order_id, version);

create table orderly.idempotency_keys (
    scope text collate "C" not null,
    key text collate "C" not null,
    fingerprint bytea not null,
    -- In the order of the request.
    order_ids bigint[] not null,
    -- When the orders were created, and from when the key's age counts.
    created_at timestamptz not null,
    primary key (scope, key)
);

create index idempotency_keys_age on orderly.idempotency_keys (created_at);

create table orderly.nodes (
    node bigint primary key,
    slots integer not null,
    busy integer not null,
    started_at timestamptz not null,
    heartbeat_at timestamptz not null,
    -- A node that has not been heard of by then counts as dead.
    expires_at timestamptz not null
) with (fillfactor = 50);

-- What the numbers are is the sum of the rows. Each connection that writes changes one of them, in the transaction that
-- changes what it counts, so that writers do not wait for each other's commit.
create table orderly.counters (
    slot smallint primary key,
    pending bigint not null default 0,
    processing bigint not null default 0,
    completed bigint not null default 0,
    failed bigint not null default 0,
    cancelled bigint not null default 0,
    processing_micros bigint not null default 0
) with (fillfactor = 20, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

insert into orderly.counters (slot) select generate_series(0, 127);

create table orderly.queue (
    id smallint primary key check (id = 1),
    paused boolean not null,
    -- The last place in the feed given out; never given again, whatever is deleted.
    last_position bigint not null
);

insert into orderly.queue values (1, false, 0);
