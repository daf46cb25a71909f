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
    metadata text,
    -- What the processor gave when it completed the order: JSON text.
    result text,
    -- Processing: the lease is held by an external worker, and does not end with a node.
    outside boolean not null default false,
    -- The token of the latest claim is known outside the node that claimed: results that carry it count.
    handed_out boolean not null default false,
    -- Null where the orders of a user do not wait for each other. Otherwise 0 while Pending for the one of its user that may
    -- start, 1 for those that wait for it; 2 from the change that gives another one its turn, or may take one, until a
    -- claim has seen to it: claims come one after another, so they decide whose turn it is.
    turn smallint
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

-- What one transaction did: its events have the places 0 to events - 1 in it. Drawn once all rows of the transaction
-- are locked, so that of two transactions that touch one order the later has the higher number.
create table orderly.batches (
    batch bigint primary key,
    events integer not null,
    -- The place in the feed of the batch's first event. Null until a reader of the feed numbers what is committed: the
    -- order of the numbers drawn is not the order of the commits, so a reader that follows those would skip.
    first_position bigint unique
) with (
    -- Every batch is changed once, when it gets its place, and leaves a dead entry at the head of batches_unnumbered, which
    -- is read with every page of the feed.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_index_cleanup = on
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
    -- Of a first start: the earlier orders of the first line that its claim passed over, because another session had locked
    -- them.
    passed_over bigint[],
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
    expires_at timestamptz not null,
    -- Whether the node claims, as of its last heartbeat: 0 closed (it does), 1 open, 2 half open.
    breaker smallint not null default 0,
    -- What the node was told of the orders of a user, as in orderly.queue.
    ordering smallint not null default 0,
    -- What processes the orders that the node claims, as in orderly.queue; null where the node did not say.
    processor smallint
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
    last_position bigint not null,
    -- Drawn at random, and anew when the store is restored from a backup: a cursor of another feed, or of another life of
    -- this one, is told by it.
    feed_id bigint not null,
    -- The highest place of an event that was taken out with its order; behind it the feed has no holes.
    oldest_position bigint not null default 0,
    -- Whether the orders of one user wait for each other: 0 no, 1 yes, 2 yes, for failed ones too.
    ordering smallint not null default 0,
    -- The highest order id given out when that was last changed: later orders were never started by another rule.
    ordering_from bigint not null default 0,
    -- What processes the orders: 0 a simulation, 1 a service, 2 workers that take them, 3 or 4 the program itself. Nodes
    -- that were told otherwise start nothing.
    processor smallint not null default 0
);

-- Of the 32 digits those that are random in all their bits, and no hash of them: a server may refuse one for its policy.
insert into orderly.queue (id, paused, last_position, feed_id)
select 1, false, 0, ('x' || left(drawn.digits, 12) || right(drawn.digits, 4))::bit(64)::bigint
from (select replace(gen_random_uuid()::text, '-', '') as digits) as drawn;

-- The statements that carry the load, as functions: a session plans what is in a function once, and what a node sends each
-- time, which must be planned anew wherever poolers share sessions, is one call. A function is one statement for whoever
-- calls it: committed when it is answered, carried out to its end whatever becomes of the caller.
--
-- A plan is kept for as long as a session lasts, so it must be right for tables that were empty when it was made: the rows
-- of tables are found by index alone, and lists are joined by hashing where they may be long. Plans that are switched off
-- cost so much that compiling them would seem worth it.

-- Another session may lock any row for as long as it likes. What can be left for later is left (skip locked), so that one row
-- keeps no other waiting; what must have its row waits for a few seconds and changes nothing then.

-- A row of the counters that no session holds: the preferred one, or one of a few others. Locked until the transaction ends.
create function orderly.free_counter(preferred bigint) returns smallint language plpgsql
as $free$
declare
    free_slot smallint;
begin
    for step in 0..7 loop
        select c.slot into free_slot from orderly.counters as c
        where c.slot = case when step = 0 then preferred else (preferred + 37 * step) % 128 end
        for update skip locked;
        if found then
            return free_slot;
        end if;
    end loop;
    return preferred;
end $free$;

-- Stores a group of calls without keys, their orders with their events. accept_keyed is the same for groups with keys.
-- Where the orders of a user wait for each other, the next claim sees to the turns of all that changes.
create function orderly.accept(
    user_ids bigint[], amounts bigint[], items text[], order_references text[], metadatas text[], counter_slot smallint,
    out order_ids bigint[], out accepted_at timestamptz
) language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set lock_timeout = 3000
as $accept$
begin
    with moment as materialized (
        -- The creation time never runs backwards. The transaction has its id before it draws order ids: whoever sees a
        -- later id in the sequence knows that it waits for a transaction with an earlier one (the floor of a claim).
        select greatest(clock_timestamp(), (
                select created_at from orderly.orders order by order_id desc limit 1)) as at,
            pg_current_xact_id() as transaction,
            (select case when ordering > 0 then 2 end from orderly.queue where id = 1)::int2 as turn
    ), numbered as materialized (
        select nextval('orderly.order_ids') as order_id, new.*
        from moment, unnest(user_ids, amounts, items, order_references, metadatas) with ordinality
            as new (user_id, total_amount, item_ids, reference, metadata, place)
        where moment.transaction is not null
    ), stored as (
        insert into orderly.orders (order_id, status, version, attempts, generation, crashes, token, created_at,
            changed_at, user_id, total_amount, item_ids, reference, metadata, turn)
        select order_id, 0, 1, 0, 0, 0, 0, moment.at, moment.at, user_id, total_amount, item_ids, reference, metadata,
            moment.turn
        from moment, numbered
    ), batch as (
        insert into orderly.batches (batch, events)
        select nextval('orderly.batch_ids'), count(*) from numbered having count(*) > 0
        returning batch
    ), recorded as (
        insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt)
        select batch, place - 1, order_id, 1, 0, 0, moment.at, 0
        from moment, batch, numbered
    ), counted as (
        update orderly.counters set pending = pending + (select count(*) from numbered)
        where slot = (select orderly.free_counter(counter_slot))
    )
    select array(select order_id from numbered order by place), moment.at into order_ids, accepted_at from moment;
end $accept$;

-- Stores a group of calls, some with keys, each with its orders and their events. Calls whose key is stored already are
-- left out: they have no row in the answer. order_calls: the number of the call each order belongs to; key_calls: that of
-- each key.
create function orderly.accept_keyed(
    order_calls integer[], user_ids bigint[], amounts bigint[], items text[], order_references text[], metadatas text[],
    key_calls integer[], scopes text[], keys text[], fingerprints bytea[], counter_slot smallint
) returns table (stored_call integer, stored_order_ids bigint[], accepted_at timestamptz)
language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_nestloop = off
set lock_timeout = 3000
as $accept$
begin
    return query
    with moment as materialized (
        -- See accept.
        select greatest(clock_timestamp(), (
                select created_at from orderly.orders order by order_id desc limit 1)) as at,
            pg_current_xact_id() as transaction,
            (select case when ordering > 0 then 2 end from orderly.queue where id = 1)::int2 as turn
    ), numbered as materialized (
        select nextval('orderly.order_ids') as order_id, new.*
        from moment, unnest(order_calls, user_ids, amounts, items, order_references, metadatas) with ordinality
            as new (call, user_id, total_amount, item_ids, reference, metadata, place)
        where moment.transaction is not null
    ), calls as materialized (
        select call, array_agg(order_id order by place) as order_ids from numbered group by call
    ), asked as materialized (
        -- A key that is there is looked at before it is locked. Looked up one by one, whatever the plan says of joins.
        select given.*, (
            select known.created_at from orderly.idempotency_keys as known
            where known.scope = given.scope and known.key = given.key) as stored_at
        from unnest(key_calls, scopes, keys, fingerprints) as given (call, scope, key, fingerprint)
    ), kept as (
        -- In the order of the keys, so that two groups that share some never wait for each other.
        insert into orderly.idempotency_keys as stored (scope, key, fingerprint, order_ids, created_at)
        select asked.scope, asked.key, asked.fingerprint, calls.order_ids, moment.at
        from moment, asked join calls using (call)
        where case
            when asked.stored_at is null then true
            when asked.stored_at <= moment.at - interval '24 hours' then coalesce((
                select true from orderly.idempotency_keys as known
                where known.scope = asked.scope and known.key = asked.key
                for update skip locked), false)
            else false end
        order by asked.scope collate "C", asked.key collate "C"
        -- A key past its retention may still be there and gives way.
        on conflict (scope, key) do update set
            fingerprint = excluded.fingerprint, order_ids = excluded.order_ids, created_at = excluded.created_at
            where stored.created_at <= excluded.created_at - interval '24 hours'
        returning stored.order_ids[1] as first_order_id
    ), stored_calls as materialized (
        select calls.call, calls.order_ids
        from calls
            left join unnest(key_calls) as keyed (call) using (call)
            left join kept on kept.first_order_id = calls.order_ids[1]
        where keyed.call is null or kept.first_order_id is not null
    ), stored as (
        insert into orderly.orders (order_id, status, version, attempts, generation, crashes, token, created_at,
            changed_at, user_id, total_amount, item_ids, reference, metadata, turn)
        select order_id, 0, 1, 0, 0, 0, 0, moment.at, moment.at, user_id, total_amount, item_ids, reference, metadata,
            moment.turn
        from moment, numbered
        where numbered.call in (select call from stored_calls)
        returning order_id
    ), batch as (
        insert into orderly.batches (batch, events)
        select nextval('orderly.batch_ids'), count(*) from stored having count(*) > 0
        returning batch
    ), recorded as (
        insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt)
        select batch, row_number() over (order by order_id) - 1, order_id, 1, 0, 0, moment.at, 0
        from moment, batch, stored
    ), counted as (
        update orderly.counters set pending = pending + (select count(*) from stored)
        where slot = (select orderly.free_counter(counter_slot))
    )
    select call, order_ids, moment.at from stored_calls, moment;
end $accept$;

-- Ends attempts, each of its own lease and of no other: the token is checked by the statement that writes, so a worker
-- that lost its lease changes nothing and finds no row in the answer. A lease that ran out but was not given to another
-- still counts. What another session has locked is left: its row in the answer has no status. One element per result, by
-- rising order id. Served by the primary key. Where the orders of a user wait for each other, the next claim sees to the turns of all that changes.
create function orderly.settle(
    order_ids bigint[], tokens bigint[], nodes bigint[], kinds smallint[], statuses smallint[], given_backs boolean[],
    due_ins_micros bigint[], errors text[], results text[], counter_slot smallint
) returns table (ended_place bigint, ended_order_id bigint, ended_status smallint)
language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set enable_bitmapscan = off set lock_timeout = 3000
as $settle$
begin
    return query
    with moment as materialized (
        select clock_timestamp() as at,
            (select case when ordering > 0 then 2 end from orderly.queue where id = 1)::int2 as turn
    ), result as materialized (
        select * from unnest(order_ids, tokens, nodes, kinds, statuses, given_backs, due_ins_micros, errors, results)
            with ordinality
            as result (order_id, token, node, kind, status, given_back, due_in_micros, error, given, place)
    ), held as materialized (
        -- Driven by the results, as in claim.
        select result.*
        from result cross join lateral (
            select 1 as locked from orderly.orders as o
            where o.order_id = result.order_id and o.token = result.token and o.status + 0 = 1
            for update skip locked) as free
    ), ended as (
        update orderly.orders as o set
            status = result.status,
            version = o.version + 1,
            attempts = o.attempts - result.given_back::int,
            lease_expires_at = null,
            changed_at = greatest(moment.at, o.changed_at),
            due_at = moment.at + result.due_in_micros * interval '1 microsecond',
            finished_at = case when result.status > 1 then greatest(moment.at, o.changed_at) end,
            -- What the last attempt said stays, unless it is known why this one was given back.
            last_error = case when result.given_back then coalesce(result.error, o.last_error) else result.error end,
            result = result.given,
            outside = false,
            turn = moment.turn
        from moment, held as result
        where o.order_id = result.order_id and o.token = result.token and o.status + 0 = 1
            and result.order_id + 0 = result.order_id
        returning o.order_id, o.version, o.attempts, o.status, o.changed_at, o.processing_at,
            result.place, result.kind, result.node, result.error
    ), batch as (
        insert into orderly.batches (batch, events)
        select nextval('orderly.batch_ids'), count(*) from ended having count(*) > 0
        returning batch
    ), recorded as (
        insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt, node, error)
        select batch, row_number() over (order by order_id) - 1, order_id, version, kind, status, changed_at, attempts,
            node, error
        from batch, ended
    ), counted as (
        update orderly.counters as c set
            pending = c.pending + change.pending,
            processing = c.processing - change.ended,
            completed = c.completed + change.completed,
            failed = c.failed + change.failed,
            processing_micros = c.processing_micros + change.micros
        from (
            select count(*) as ended,
                count(*) filter (where status = 0) as pending,
                count(*) filter (where status = 2) as completed,
                count(*) filter (where status = 3) as failed,
                coalesce(sum((extract(epoch from changed_at - processing_at) * 1000000)::int8)
                    filter (where status = 2), 0) as micros
            from ended) as change
        where c.slot = (select orderly.free_counter(counter_slot) where exists (select from ended)) and change.ended > 0
    )
    select place, order_id, status from ended
    union all
    -- Locked by another session: without a status, to be tried again.
    select result.place, result.order_id, null
    from result
    where result.place not in (select place from held) and exists (
        select from orderly.orders as o
        where o.order_id = result.order_id and o.token = result.token and o.status + 0 = 1 offset 0);
end $settle$;

-- Claims the next due orders of both lines for a node. Called in a message of its own that ends the transaction, so that a
-- node that freezes anywhere never holds the lock: the server carries it out to its end without asking back. What comes out
-- is small enough never to wait for a reader. Where the orders of a user wait for each other, nodes send the statements
-- themselves, with the lines of those whose turn it is.
-- An order that another session has locked is passed over, and so are those in `stepped_around`, whose start the database
-- refused; so many more than are wanted are looked at (`spare`).
-- No order at or below `above` can be in the first line any more (the floor). The plans of the lines are the heads of their
-- indexes, whatever the statistics say.
create function orderly.claim(
    places bigint, claiming_node bigint, lease_micros bigint, takes_suspects bigint, is_outside bigint,
    is_handed_out bigint, known_processor bigint, known_ordering bigint, second_first bigint, above bigint, spare bigint,
    counter_slot bigint, claim_lock bigint, stepped_around bigint[] default '{}',
    out order_ids bigint[], out tokens bigint[], out claimed bigint, out exhausted integer, out running bigint,
    out last_order_id bigint, out oldest_running xid8, out transaction xid8, out next_due_in_micros bigint,
    out open_orders bigint, out stored_ordering smallint, out stored_processor smallint,
    out locked_first bigint[], out locked_second bigint[]
) language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off
as $claim$
begin
    -- Claims of all nodes come one after another, each with a view that has everything committed before, since each
    -- statement of a function has its own: first-in first-out start.
    perform pg_advisory_xact_lock(claim_lock);
    -- Read before this transaction gets its id: every order id up to it was drawn by a transaction with an earlier one. And
    -- before the claim's own view: whatever ended before the oldest transaction that runs now is seen by it.
    select case when is_called then last_value else 0 end, pg_snapshot_xmin(pg_current_snapshot())
    into last_order_id, oldest_running from orderly.order_ids;
    with moment as materialized (
        select clock_timestamp() as at
    ), running as materialized (
        -- Nor where the orders of a user wait for each other and this node does not know, or where something else
        -- processes them.
        select 1 from orderly.queue
        where id = 1 and not paused and ordering = known_ordering
            and (known_processor < 0 or processor = known_processor)
    ), first_line as materialized (
        -- Served by orders_first alone.
        select order_id, order_id + 0 as turn from orderly.orders
        where status = 0 and due_at is null and order_id + 0 > above and exists (select from running)
        order by order_id + 0
        limit places + spare
    ), first_free as materialized (
        -- One after the other, no more than are wanted.
        select order_id, turn
        from first_line cross join lateral (
            select 1 as locked from orderly.orders as o
            where o.order_id = first_line.order_id and o.status + 0 = 0 and o.due_at is null
                and o.order_id <> all (stepped_around)
            for update skip locked) as free
        limit places
    ), second_line as materialized (
        -- Served by orders_due and orders_suspect: orders that wait out a back-off are behind the range that is read.
        (select order_id, due_at, false as suspect from orderly.orders
        where status = 0 and due_at is not null and crashes < 2 and due_at <= (select at from moment)
            and exists (select from running)
        order by due_at, order_id
        limit places + spare)
        union all
        (select order_id, due_at, true as suspect from orderly.orders
        where status = 0 and due_at is not null and crashes >= 2 and due_at <= (select at from moment)
            and takes_suspects = 1 and exists (select from running)
        order by due_at, order_id
        limit least(places, 1) + spare)
    ), second_free as materialized (
        (select order_id, due_at, suspect
        from second_line cross join lateral (
            select 1 as locked from orderly.orders as o
            where o.order_id = second_line.order_id and o.status + 0 = 0 and o.due_at is not null
                and o.order_id <> all (stepped_around)
            for update skip locked) as free
        where not suspect
        limit places)
        union all
        (select order_id, due_at, suspect
        from second_line cross join lateral (
            select 1 as locked from orderly.orders as o
            where o.order_id = second_line.order_id and o.status + 0 = 0 and o.due_at is not null
                and o.order_id <> all (stepped_around)
            for update skip locked) as free
        where suspect
        limit least(places, 1))
    ), lines as materialized (
        select (select count(*) from first_free) as first, (select max(order_id) from first_free) as last,
            count(*) as second, count(*) filter (where suspect) as suspects
        from second_free
    ), first_passed as materialized (
        -- What was looked at in vain, by rising id.
        select order_id from first_line, lines
        where order_id not in (select order_id from first_free) and (lines.first < places or order_id < lines.last)
    ), second_passed as materialized (
        select order_id from second_line, lines
        where order_id not in (select order_id from second_free)
            and case when suspect then lines.suspects < least(places, 1) else lines.second - lines.suspects < places end
    ), share as materialized (
        -- While both lines have work, both move; a short line leaves its places to the other.
        select least(second, greatest((places + second_first) / 2, places - first)) as second from lines
    ), chosen as materialized (
        (select order_id, 1 as line, row_number() over (order by turn) as turn from first_free
        order by turn limit (select places - second from share))
        union all
        (select order_id, 2 as line, row_number() over (order by due_at, order_id) as turn from second_free
        order by turn limit (select second from share))
    ), started as (
        update orderly.orders as o set
            status = 1,
            version = o.version + 1,
            attempts = o.attempts + 1,
            token = o.token + 1,
            node = claiming_node,
            outside = is_outside = 1,
            handed_out = is_handed_out = 1,
            lease_expires_at = moment.at + lease_micros * interval '1 microsecond',
            processing_at = greatest(moment.at, o.changed_at),
            changed_at = greatest(moment.at, o.changed_at)
        from moment, chosen
        -- Driven by what was chosen, through the primary key: no index has the status so, and it is taken for one row, so
        -- that even of a table that was almost empty when the plan was made nothing else seems cheaper.
        where o.order_id = chosen.order_id and chosen.order_id + 0 = chosen.order_id and o.status + 0 = 0
        returning o.order_id, o.version, o.attempts, o.token, o.changed_at, chosen.line, chosen.turn
    ), believed as (
        -- An idle node says that it lives for longer than a lease lasts; with orders in its hands it is believed no longer.
        update orderly.nodes as n set expires_at = moment.at + lease_micros * interval '1 microsecond'
        from moment
        where n.node = claiming_node and n.expires_at > moment.at + lease_micros * interval '1 microsecond'
            and exists (select from started)
            and n.node = (select mine.node from orderly.nodes as mine where mine.node = claiming_node for update skip locked)
    ), batch as (
        insert into orderly.batches (batch, events)
        select nextval('orderly.batch_ids'), count(*) from started having count(*) > 0
        returning batch
    ), recorded as (
        insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt, node, passed_over)
        select batch, row_number() over (order by line, turn) - 1, order_id, version, 1, 1, changed_at, attempts, claiming_node,
            case when line = 1 then nullif(
                array(select p.order_id from first_passed as p where p.order_id < started.order_id), '{}') end
        from batch, started
    ), counted as (
        update orderly.counters set pending = pending - change.started, processing = processing + change.started
        from (select count(*) as started from started) as change
        where slot = (select orderly.free_counter(counter_slot) where exists (select from started)) and change.started > 0
    )
    -- The first line is exhausted when all of it was seen, and taken but for what was passed over.
    select array(select order_id from started order by line, turn), array(select token from started order by line, turn),
        (select max(order_id) from started where line = 1),
        ((select count(*) from first_line) < places + spare and lines.first < places and lines.first + share.second <= places)::int,
        (select count(*) from running),
        array(select order_id from first_passed), array(select order_id from second_passed)
    into order_ids, tokens, claimed, exhausted, running, locked_first, locked_second
    from lines cross join share;
    -- Whether it wrote something; when the next order of the second line is due that such a claim may take; how many orders
    -- are open.
    select pg_current_xact_id_if_assigned(),
        (select (extract(epoch from min(due_at) - clock_timestamp()) * 1000000)::int8 from (
            (select due_at from orderly.orders
            where status = 0 and due_at is not null and crashes < 2 and order_id <> all (stepped_around)
            order by due_at, order_id limit 1)
            union all
            (select due_at from orderly.orders
            where status = 0 and due_at is not null and crashes >= 2 and takes_suspects = 1
                and order_id <> all (stepped_around)
            order by due_at, order_id limit 1)) as due
        where exists (select from orderly.queue where id = 1 and not paused)),
        (select sum(pending + processing)::int8 from orderly.counters),
        (select q.ordering from orderly.queue as q where id = 1),
        (select q.processor from orderly.queue as q where id = 1)
    into transaction, next_due_in_micros, open_orders, stored_ordering, stored_processor;
end $claim$;

-- Finds out which of these orders the database refuses to start, whatever rule refuses them: tries what a claim does to each, alone,
-- and takes it back.
create function orderly.refused_starts(
    asked bigint[], claiming_node bigint, lease_micros bigint, is_outside bigint, is_handed_out bigint
) returns table (refused_order_id bigint, code text, message text) language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off
as $refused$
declare
    tried record;
    tried_batch bigint;
begin
    foreach refused_order_id in array asked loop
        begin
            select o.status, o.version, o.attempts, o.turn into tried from orderly.orders as o
            where o.order_id = refused_order_id for update skip locked;
            continue when not found;
            if tried.turn is not null then
                update orderly.orders as o set turn = case when tried.status = 0 then (tried.turn = 0)::int end
                where o.order_id = refused_order_id;
            end if;
            if tried.status = 0 then
                update orderly.orders as o set
                    status = 1,
                    version = o.version + 1,
                    attempts = o.attempts + 1,
                    token = o.token + 1,
                    node = claiming_node,
                    outside = is_outside = 1,
                    handed_out = is_handed_out = 1,
                    lease_expires_at = clock_timestamp() + lease_micros * interval '1 microsecond',
                    processing_at = greatest(clock_timestamp(), o.changed_at),
                    changed_at = greatest(clock_timestamp(), o.changed_at)
                where o.order_id = refused_order_id;
                insert into orderly.batches (batch, events) values (nextval('orderly.batch_ids'), 1)
                returning batch into tried_batch;
                insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt, node)
                values (tried_batch, 0, refused_order_id, tried.version + 1, 1, 1, clock_timestamp(), tried.attempts + 1,
                    claiming_node);
            end if;
            set constraints all immediate;
            raise sqlstate 'OT000';
        exception
            when sqlstate 'OT000' then
                null;
            when others or assert_failure then
                code := sqlstate;
                message := sqlerrm;
                return next;
        end;
    end loop;
end $refused$;
