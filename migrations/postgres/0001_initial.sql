-- Orders, their lines, leases, events and idempotency keys, the nodes, and the counters. Amounts are minor units (cents).
-- docs/decisions/0019-narrow-rows-where-it-is-hot.md explains the layout of the tables.
--
-- An order's row is written at accept and once for each attempt or action that ends. While the order is open it has one row in
-- first_line, second_line, blocked or set_aside (Pending) or in leases (Processing).
--
-- status of an order: 0 open, 2 Completed, 3 Failed, 4 Cancelled; the view order_state shows 0 Pending and 1 Processing.
-- kind of an event: 0 accepted, 1 started, 2 completed, 3 retry_scheduled, 4 failed, 5 lease_lost, 6 released, 7 cancelled,
-- 8 redriven, 9 held, 10 unheld, 11 milestone, 12 amended, 13 overdue.

-- Drawn inside the accepting transaction, so that an order whose 201 was sent before another request came has the lower id.
-- No cache: ids that a session takes in advance would break this.
create sequence orderly.order_ids;
-- Drawn once all rows of the transaction are locked, so that of two transactions that change one order the later has the
-- higher id.
create sequence orderly.batch_ids;

-- An event in the history of an order. Its place in the array gives its version.
create type orderly.event as (
    kind smallint,
    at timestamptz,
    attempt integer,
    node bigint,
    batch bigint,
    error text,
    -- Facts about a person's action: JSON.
    detail text
);

create table orderly.orders (
    order_id bigint primary key,
    -- Negative, a hash, for a user with a name.
    user_id bigint not null, user_name text,
    -- With the decimals of the currency; 2 without one.
    total_amount bigint not null check (total_amount between 0 and 9999999999999900), currency text,
    created_at timestamptz not null,
    -- The batch of the event `accepted`.
    accepted_in bigint not null,
    -- Codes, and lines as JSON.
    item_ids text not null, lines text,
    reference text collate "C", metadata text,
    -- milestone: the name of the latest.
    start_after timestamptz, milestone text collate "C",
    -- overdue: the deadline passed while the order was not final.
    deadline timestamptz, overdue boolean not null default false,
    -- The columns below are as of the last attempt or action that ended.
    status smallint not null default 0 check (status in (0, 2, 3, 4)),
    version integer not null default 1,
    attempts integer not null default 0, generation integer not null default 0,
    -- Leases lost to dead nodes since acceptance or the last redrive.
    crashes integer not null default 0,
    -- The fence of that attempt: it rises with each claim and has the epoch above its low 27 bits. 0 before the first claim.
    fence bigint not null default 0,
    -- The claiming node as 64 bits, shown in hexadecimal elsewhere.
    node bigint,
    -- True if a worker or service knows the token, so that its results count.
    handed_out boolean not null default false,
    -- The time of the latest event, so that an order's times never go backwards when the server's clock does. Null before
    -- the second event.
    changed_at timestamptz,
    processing_at timestamptz,
    -- Set exactly while Completed, Failed or Cancelled.
    finished_at timestamptz,
    -- Set if an attempt ended the order: the batches of its start and end, which are not in the history.
    started_in bigint, ended_in bigint,
    -- The processor's result of a completed order: JSON text.
    last_error text, result text,
    -- The latest events, without `accepted` and those of started_in, ended_in and the lease; earlier ones are in
    -- orderly.history.
    history orderly.event[]
) with (
    -- Leaves room for a second version of each row. No index contains a changing column, so the update that ends an attempt
    -- stays on its page and writes no index.
    fillfactor = 40,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);

create index orders_user on orderly.orders (user_id, order_id);
create index orders_reference on orderly.orders (reference, order_id) where reference is not null;
-- No end of an attempt changes a milestone.
create index orders_milestone on orderly.orders (milestone, order_id) where milestone is not null;

-- Events that no longer fit into an order's row; `version` is that of the first.
create table orderly.history (
    order_id bigint not null, version integer not null, events orderly.event[] not null, primary key (order_id, version)
);

-- The first line: orders that never started and may start, in order of acceptance.
create table orderly.first_line (order_id bigint primary key) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- The second line: retries, redrives and given-back orders by due time. A node takes one suspect at a time.
create table orderly.second_line (
    order_id bigint primary key, due_at timestamptz not null, suspect boolean not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

create index second_line_due on orderly.second_line (due_at, order_id) where not suspect;
create index second_line_suspect on orderly.second_line (due_at, order_id) where suspect;

-- Orders in neither line: held, or scheduled until `start_after`.
create table orderly.set_aside (
    order_id bigint primary key, user_id bigint not null,
    held_at timestamptz, hold_reason text,
    start_after timestamptz,
    -- When the order is due once it enters the second line.
    due_at timestamptz not null,
    suspect boolean not null,
    check (held_at is not null or start_after is not null)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

create index set_aside_scheduled on orderly.set_aside (start_after, order_id) where held_at is null;
create index set_aside_user on orderly.set_aside (user_id, order_id);

-- With ordering per user: orders that wait until a claim gives them their turn, which moves them to their line. Otherwise
-- empty.
create table orderly.blocked (
    order_id bigint primary key, user_id bigint not null,
    -- The time of acceptance, or the due time.
    since timestamptz not null,
    -- Null for an order of the first line.
    due_at timestamptz,
    suspect boolean not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

create index blocked_user on orderly.blocked (user_id, order_id);
create index blocked_since on orderly.blocked (since, order_id);

-- The orders whose turn it is, or was until their attempt ended.
create table orderly.turns (
    user_id bigint not null, order_id bigint not null, primary key (user_id, order_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Users with changed orders that the next claim must handle: claims run one after another, so they decide whose turn it is.
create table orderly.unseen (
    change bigint generated always as identity primary key, user_id bigint not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

create index unseen_user on orderly.unseen (user_id);

-- Running attempts.
create table orderly.leases (
    order_id bigint primary key,
    fence bigint not null,
    -- The claiming node as 64 bits.
    node bigint not null,
    -- The version of the event `started`.
    version integer not null,
    attempt integer not null, started_at timestamptz not null, started_in bigint, expires_at timestamptz not null,
    -- True if an external worker holds it, so that it does not end with a node.
    outside boolean not null,
    handed_out boolean not null
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);

-- Orders by status, for listings: newest first by id, for all users and for one.
create table orderly.failed (order_id bigint primary key, user_id bigint not null);
create index failed_user on orderly.failed (user_id, order_id);
create table orderly.cancelled (order_id bigint primary key, user_id bigint not null);
create index cancelled_user on orderly.cancelled (user_id, order_id);
create table orderly.overdue (order_id bigint primary key, user_id bigint not null);
create index overdue_user on orderly.overdue (user_id, order_id);

-- Deadlines of open orders that have not fired.
create table orderly.deadlines (order_id bigint primary key, deadline timestamptz not null)
    with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index deadlines_due on orderly.deadlines (deadline, order_id);

-- The events of one kind of one transaction, as arrays: elements at the same place belong to one event. If an array is null,
-- all events have the value in brackets.
create table orderly.batches (
    batch bigint primary key,
    -- The position of the batch's first event in the feed. Null until it is numbered after the commit: batch ids are not in
    -- the order of commits, so a reader that follows them would skip events.
    first_position bigint unique,
    kind smallint not null,
    at timestamptz not null,
    order_ids bigint[] not null,
    versions integer[],      -- (1)
    attempts integer[],      -- (0)
    node bigint,
    nodes bigint[],          -- (node)
    ats timestamptz[],       -- (at)
    errors text[],           -- (none)
    details text[],          -- (none)
    -- For first starts: the orders of the first line with lower ids that the claim passed over. {0} if the caller chose the
    -- orders, so that any earlier order may have been passed over.
    passed_over bigint[]
) with (
    -- Rows are always read as a whole.
    toast_tuple_target = 8160,
    -- Every batch is updated once, when it is numbered, and leaves a dead entry at the head of batches_unnumbered, which every
    -- page of the feed reads.
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    vacuum_index_cleanup = on
);

create index batches_unnumbered on orderly.batches (batch) where first_position is null;

create table orderly.idempotency_keys (
    scope text collate "C" not null,
    key text collate "C" not null,
    fingerprint bytea not null,
    -- In the order of the request.
    order_ids bigint[] not null,
    -- The time when the orders were created; the key's age counts from it.
    created_at timestamptz not null,
    primary key (scope, key)
);

create index idempotency_keys_age on orderly.idempotency_keys (created_at);

create table orderly.nodes (
    node bigint primary key,
    slots integer not null, busy integer not null, started_at timestamptz not null, heartbeat_at timestamptz not null,
    -- Without another heartbeat before this time, the node counts as dead.
    expires_at timestamptz not null,
    -- The state of the node's breaker as of its last heartbeat: 0 closed (it claims), 1 open, 2 half open.
    breaker smallint not null default 0,
    -- The node's ordering, coded as in orderly.queue.
    ordering smallint not null default 0,
    -- The node's processor, coded as in orderly.queue; null if the node named none.
    processor smallint,
    -- ORDERLY_NODE_NAME, for people, and the version of its program.
    name text not null default '', version text not null default '',
    -- How far its clock was ahead of the database's at its last heartbeat, in microseconds; null if it did not say.
    clock_ahead bigint,
    last_start_at timestamptz
) with (fillfactor = 50);

-- What happened in the last 24 hours: a row per node and minute in which something happened.
create table orderly.activity (
    node bigint not null,
    -- The node numbers its rows, so that a repeated write changes nothing.
    number bigint not null,
    recorded_at timestamptz not null,
    accepted bigint not null, started bigint not null, completed bigint not null, retried bigint not null,
    failed bigint not null, leases_lost bigint not null, leases_refused bigint not null,
    primary key (node, number)
);

create index activity_recorded on orderly.activity (recorded_at);

-- The counters are the sums of the rows. Each writing connection changes one row, in the transaction that changes what it
-- counts, so that writers do not wait for each other's commit.
create table orderly.counters (
    slot smallint primary key,
    pending bigint not null default 0, processing bigint not null default 0, completed bigint not null default 0,
    failed bigint not null default 0, cancelled bigint not null default 0, processing_micros bigint not null default 0,
    -- Pending orders that are held, and others that are scheduled.
    held bigint not null default 0, scheduled bigint not null default 0
) with (fillfactor = 20, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

insert into orderly.counters (slot) select generate_series(0, 127);

create table orderly.queue (
    id smallint primary key check (id = 1),
    paused boolean not null,
    -- When and why it was paused; null if it is not, or if no reason was given.
    paused_at timestamptz, pause_reason text,
    -- The last position given out; never reused, whatever is deleted.
    last_position bigint not null,
    -- The low-water mark: the highest position of an event removed with its order. After it the feed has no holes.
    complete_after bigint not null default 0,
    -- The ordering: 0 none, 1 per user, 2 per user, where failed orders block later ones; 3 and 4 like 1 and 2, but orders that
    -- are set aside do not block later ones.
    ordering smallint not null default 0,
    -- The highest order id given out at the last change of the ordering. Later orders never started by another rule.
    ordering_from bigint not null default 0,
    -- The processor: 0 simulated, 1 a service, 2 external workers, 3 or 4 the program itself. Nodes with another setting start
    -- nothing.
    processor smallint not null default 0,
    check (paused = (paused_at is not null))
);

insert into orderly.queue (id, paused, last_position) values (1, false, 0);

-- Stretches of the store's life. The first begins with the store, each later one where its history may fork: at a failover or
-- a restored backup. See docs/decisions/0021-an-epoch-begins-where-history-may-fork.md.
create table orderly.epochs (
    epoch bigint primary key check (epoch between 1 and 67108863),
    -- Public: part of cursors and of the idempotency keys of attempts.
    identity bigint not null unique,
    -- The key for the tokens of leases.
    secret bytea not null check (octet_length(secret) = 16),
    -- The epoch's server and the timeline of its WAL; null if the server does not reveal it.
    system_identifier bigint,
    timeline text,
    -- The lowest id of an order accepted in this epoch.
    first_order_id bigint not null,
    -- The last position given out before the epoch began.
    after_position bigint not null,
    began_at timestamptz not null
);
