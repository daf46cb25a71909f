-- Orders, their events, their keys, the nodes that process them, and the numbers about all of it.
-- Times are microseconds since 1970-01-01T00:00:00Z; amounts are minor units (cents).
-- status: 0 Pending, 1 Processing, 2 Completed, 3 Failed, 4 Cancelled.

create table orders (
    order_id integer primary key,
    status integer not null check (status between 0 and 4),
    version integer not null,
    attempts integer not null,
    generation integer not null,
    -- Leases lost to dead nodes since acceptance or the last redrive.
    crashes integer not null,
    -- The fencing token of the latest claim; 0 before the first.
    token integer not null,
    -- Who claimed it last.
    node integer,
    -- Set exactly while Processing.
    lease_expires_at integer,
    created_at integer not null,
    processing_at integer,
    -- Set exactly while Completed, Failed or Cancelled.
    finished_at integer,
    -- Null in the first line (never started); otherwise, while Pending, when the order is due again.
    due_at integer,
    user_id integer not null,
    total_amount integer not null check (total_amount between 0 and 99999999999999),
    item_ids text not null,
    reference text,
    last_error text,
    metadata text
) strict;

-- The first line: first attempts in order of acceptance.
create index orders_first on orders (order_id) where status = 0 and due_at is null;
-- The second line: retries, redrives and given-back orders by due time.
create index orders_due on orders (due_at, order_id) where status = 0 and due_at is not null and crashes < 2;
-- The second line's suspects, of which a node takes one at a time.
create index orders_suspect on orders (due_at, order_id) where status = 0 and due_at is not null and crashes >= 2;
-- Listings, newest first; a listing by user alone merges the five statuses. Also the orders being processed.
create index orders_status on orders (status, order_id);
create index orders_user on orders (user_id, status, order_id);
create index orders_reference on orders (reference, order_id) where reference is not null;

-- One feed of all events: positions rise in the order of the commits.
-- kind: 0 accepted, 1 started, 2 completed, 3 retry_scheduled, 4 failed, 5 lease_lost, 6 released, 7 cancelled, 8 redriven.
create table events (
    position integer primary key,
    order_id integer not null,
    version integer not null,
    kind integer not null,
    status integer not null,
    at integer not null,
    attempt integer not null,
    node integer,
    error text
) strict;

create unique index events_order on events (order_id, version);

create table idempotency_keys (
    scope text not null,
    key text not null,
    fingerprint blob not null,
    -- The orders of one request have consecutive ids.
    first_order_id integer not null,
    order_count integer not null,
    -- When the orders were created, and from when the key's age counts.
    created_at integer not null,
    primary key (scope, key)
) strict, without rowid;

create index idempotency_keys_age on idempotency_keys (created_at);

create table nodes (
    node integer primary key,
    slots integer not null,
    busy integer not null,
    started_at integer not null,
    heartbeat_at integer not null,
    -- A node that has not been heard of by then counts as dead.
    expires_at integer not null
) strict;

-- One row, changed in the transaction that changes what it counts.
create table counters (
    id integer primary key check (id = 1),
    pending integer not null,
    processing integer not null,
    completed integer not null,
    failed integer not null,
    cancelled integer not null,
    processing_micros integer not null,
    -- The latest numbers given out; never given again, whatever is deleted.
    last_order_id integer not null,
    last_position integer not null,
    paused integer not null check (paused in (0, 1))
) strict;

insert into counters values (1, 0, 0, 0, 0, 0, 0, 0, 0, 0);
