-- Orders, their events and idempotency keys, the nodes, and the counters.
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
    -- The fence of the latest claim: it rises with each claim and has the epoch above its low 27 bits. 0 before the first claim.
    fence integer not null,
    -- The node of the latest claim.
    node integer,
    -- Set exactly while Processing.
    lease_expires_at integer,
    created_at integer not null,
    processing_at integer,
    -- Set exactly while Completed, Failed or Cancelled.
    finished_at integer,
    -- Null in the first line (never started); otherwise, while Pending, the time when the order is due again.
    due_at integer,
    -- Negative, a hash, for a user with a name.
    user_id integer not null,
    user_name text,
    -- In minor units, with the decimals of the currency; two without one.
    total_amount integer not null check (total_amount between 0 and 9999999999999900),
    currency text,
    -- Codes, and lines as JSON.
    item_ids text not null,
    lines text,
    reference text,
    last_error text,
    metadata text,
    -- The processor's result of a completed order: JSON text.
    result text,
    -- True if an external worker holds the lease of a Processing order, so that it does not end with a node.
    outside integer not null default 0,
    -- True if a worker or service knows the token of the latest claim, so that its results count.
    handed_out integer not null default 0,
    -- 2 for a Pending order that is set aside, in neither line: held, or scheduled. For the other Pending orders null without
    -- ordering per user, otherwise 0 for the order of its user that may start, 1 for those that wait for it.
    turn integer check (turn in (0, 1, 2)),
    start_after integer,
    -- Set while the order is held.
    held_at integer,
    hold_reason text,
    -- The name of the latest.
    milestone text,
    deadline integer,
    -- 1 if the deadline passed while the order was not final.
    overdue integer not null default 0
) strict;

-- The lines hold the orders that may start, by either ordering: `coalesce(turn, 0) = 0`.
-- The first line: first attempts in order of acceptance.
create index orders_first on orders (order_id) where status = 0 and due_at is null and coalesce(turn, 0) = 0;
-- The second line: retries, redrives and given-back orders by due time.
create index orders_due on orders (due_at, order_id)
    where status = 0 and due_at is not null and coalesce(turn, 0) = 0 and crashes < 2;
-- The second line's suspects; a node takes one at a time.
create index orders_suspect on orders (due_at, order_id)
    where status = 0 and due_at is not null and coalesce(turn, 0) = 0 and crashes >= 2;

-- With ordering per user: a user's Pending orders, the one whose turn it is (0) apart from those that wait (1).
create index orders_turn on orders (user_id, turn) where status = 0 and turn is not null;
-- Scheduled orders.
create index orders_scheduled on orders (start_after, order_id) where status = 0 and turn = 2 and held_at is null;
-- Open orders with a deadline that has not fired.
create index orders_deadline on orders (deadline, order_id) where deadline is not null and status < 2 and overdue = 0;
-- Orders that wait for another order of their user, longest wait first.
create index orders_blocked on orders (coalesce(due_at, created_at)) where status = 0 and turn = 1;

-- Listings. An order that is accepted, claimed and completed moves in none of these but orders_processing.

-- All orders by user: spans of 2^12 consecutive ids, ordered by user within each. An order is added to the few pages of the latest
-- span, however many users and orders there are, and no later change touches its entry.
create index orders_user on orders (order_id >> 12, user_id);
-- Pending orders outside the first line: they came back, wait for their turn, or are set aside. With the first line these are
-- all Pending orders.
create index orders_not_first on orders (order_id) where status = 0 and (due_at is not null or turn > 0);
-- In processing: bounded by the slots of nodes and the leases of external workers.
create index orders_processing on orders (user_id, order_id) where status = 1;
-- Failed and cancelled: few.
create index orders_unsuccessful on orders (status, order_id) where status > 2;
create index orders_user_unsuccessful on orders (user_id, status, order_id) where status > 2;
create index orders_reference on orders (reference, order_id) where reference is not null;
create index orders_overdue on orders (order_id) where overdue = 1;
create index orders_milestone on orders (milestone, order_id) where milestone is not null;

-- Users whose turn could not be passed on, because the database refused to change a waiting order. Claims try again.
create table turns_owed (user_id integer primary key) strict;

-- One feed of all events: positions rise in the order of the commits.
-- kind: 0 accepted, 1 started, 2 completed, 3 retry_scheduled, 4 failed, 5 lease_lost, 6 released, 7 cancelled, 8 redriven,
-- 9 held, 10 unheld, 11 milestone, 12 amended, 13 overdue.
create table events (
    position integer primary key,
    order_id integer not null,
    version integer not null,
    kind integer not null,
    status integer not null,
    at integer not null,
    attempt integer not null,
    node integer,
    error text,
    -- Facts about a person's action: JSON.
    detail text,
    -- For a first start: the earlier orders of the first line that the claim passed over, because the database refused to
    -- start them. A JSON array.
    passed_over text
) strict;

create unique index events_order on events (order_id, version);

create table idempotency_keys (
    scope text not null,
    key text not null,
    fingerprint blob not null,
    -- The orders of one request have consecutive ids.
    first_order_id integer not null,
    order_count integer not null,
    -- The time when the orders were created; the key's age counts from it.
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
    -- Without another heartbeat before this time, the node counts as dead.
    expires_at integer not null,
    -- The state of the node's breaker as of its last heartbeat: 0 closed (it claims), 1 open, 2 half open.
    breaker integer not null default 0,
    -- The node's processor: 0 simulated, 1 a service, 2 external workers, 3 or 4 the program itself; null if the node named
    -- none.
    processor integer,
    -- ORDERLY_NODE_NAME, for people.
    name text not null default '',
    -- Version of its program.
    version text not null default '',
    -- Its latest start of an order; null before the first.
    last_start_at integer
) strict;

-- What happened in the last 24 hours: a row per node and minute in which something happened.
create table activity (
    node integer not null,
    -- The node numbers its rows, so that a repeated write changes nothing.
    number integer not null,
    recorded_at integer not null,
    accepted integer not null,
    started integer not null,
    completed integer not null,
    retried integer not null,
    failed integer not null,
    leases_lost integer not null,
    leases_refused integer not null,
    primary key (node, number)
) strict, without rowid;

create index activity_recorded on activity (recorded_at);

-- One row, changed in the transaction that changes what it counts.
create table counters (
    id integer primary key check (id = 1),
    pending integer not null,
    processing integer not null,
    completed integer not null,
    failed integer not null,
    cancelled integer not null,
    -- Pending orders that are held, and others that are scheduled.
    held integer not null,
    scheduled integer not null,
    processing_micros integer not null,
    -- The last order id and position given out; never reused, whatever is deleted.
    last_order_id integer not null,
    last_position integer not null,
    paused integer not null check (paused in (0, 1)),
    -- The low-water mark: the highest position of an event that retention removed. After it the feed has no holes.
    complete_after integer not null,
    -- The ordering: 0 none, 1 per user, 2 per user, where failed orders block later ones; 3 and 4 like 1 and 2, but held and
    -- scheduled orders do not block later ones.
    ordering integer not null,
    -- The highest order id given out at the last change of the ordering. Later orders never started by another rule.
    ordering_from integer not null,
    -- When and why the queue was paused; null if it is not, or if no reason was given.
    paused_at integer,
    pause_reason text,
    check (paused = (paused_at is not null))
) strict;

insert into counters values (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, null, null);

-- Stretches of the store's life. The first begins with the store, each later one when it is restored from a backup. See
-- docs/decisions/0021-an-epoch-begins-where-history-may-fork.md.
create table epochs (
    epoch integer primary key check (epoch between 1 and 67108863),
    -- Public: part of cursors and of the idempotency keys of attempts.
    identity integer not null unique,
    -- The key for the tokens of leases.
    secret blob not null check (length(secret) = 16),
    -- The lowest id of an order accepted in this epoch.
    first_order_id integer not null,
    -- The last position given out before the epoch began.
    after_position integer not null,
    began_at integer not null
) strict;

insert into epochs values (1, random(), randomblob(16), 1, 0, cast(unixepoch('subsec') * 1000000 as integer));
