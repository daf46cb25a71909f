-- Functions and views on the tables of 0001_initial.sql, and the first epoch.

-- Returns 16 random hexadecimal digits: those digits of a UUID in which all bits are random. They are not hashed, because a
-- server's policy may refuse the hash function.
create function orderly.random_digits() returns text language sql volatile
as $digits$
    select left(drawn.digits, 12) || right(drawn.digits, 4) from (
        select replace(gen_random_uuid()::text, '-', '') as digits) as drawn
$digits$;

-- Returns the server's identifier and the timeline of its WAL. Some services that are sold as PostgreSQL hide one of them.
create function orderly.server_life(out system_identifier bigint, out timeline text) language plpgsql stable
as $life$
begin
    begin
        system_identifier := (select control.system_identifier from pg_control_system() as control);
    exception when insufficient_privilege or undefined_function or feature_not_supported then
        system_identifier := null;
    end;
    begin
        timeline := left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
    exception when insufficient_privilege or undefined_function or feature_not_supported then
        timeline := null;
    end;
end $life$;

-- Returns the number of a new epoch: the minutes since 2025, and above its predecessor's. So it is above that of any epoch that
-- this copy of the store has lost or never saw, and the fences of an order keep rising.
create function orderly.next_epoch(newest bigint) returns bigint language sql volatile
as $next$
    select greatest(newest + 1, floor(extract(epoch from clock_timestamp()) / 60)::bigint - 28928160)
$next$;

insert into orderly.epochs
select 1, ('x' || orderly.random_digits())::bit(64)::bigint, decode(orderly.random_digits() || orderly.random_digits(), 'hex'),
    here.system_identifier, here.timeline, 1, 0, clock_timestamp()
from orderly.server_life() as here;

-- Returns the start and the end of the attempt that ended an order, if they are not in its history.
create function orderly.ending(o orderly.orders) returns orderly.event[] language sql stable
as $ending$
    select case when o.ended_in is not null then array[
        row(1, o.processing_at, o.attempts, o.node, o.started_in, null, null)::orderly.event,
        row(case o.status when 2 then 2 else 4 end, o.finished_at, o.attempts, o.node, o.ended_in, o.last_error, null)::orderly.event
    ] else '{}' end
$ending$;

-- The current state of orders. Only lookups that the status requires are made, one order after the other.
create view orderly.order_state as
select o.order_id, case when lease.order_id is null then o.status else 1::smallint end as status,
    coalesce(lease.version, o.version) as version, coalesce(lease.attempt, o.attempts) as attempts, o.generation, o.created_at,
    coalesce(lease.started_at, o.processing_at) as processing_at, o.finished_at, waiting.due_at, o.user_id, o.total_amount,
    o.item_ids, o.reference, o.last_error, o.metadata, o.result, o.user_name, o.currency, o.lines, o.start_after,
    waiting.held_at, waiting.hold_reason, o.milestone, o.deadline, o.overdue, coalesce(waiting.set_aside, false) as set_aside, o.crashes, coalesce(lease.fence, o.fence) as fence,
    coalesce(lease.node, o.node) as node, lease.expires_at as lease_expires_at, coalesce(lease.outside, false) as outside,
    coalesce(lease.handed_out, o.handed_out) as handed_out
from orderly.orders as o
    left join lateral (
        select * from orderly.leases as l where o.status = 0 and l.order_id = o.order_id offset 0) as lease on true
    left join lateral (
        select s.due_at, null::timestamptz as held_at, null::text as hold_reason, false as set_aside
        from orderly.second_line as s where o.status = 0 and lease.order_id is null and s.order_id = o.order_id
        union all
        select b.due_at, null, null, false
        from orderly.blocked as b where o.status = 0 and lease.order_id is null and b.order_id = o.order_id
        union all
        -- A scheduled order shows the end of its backoff.
        select case when a.held_at is null then nullif(a.due_at, o.created_at) end, a.held_at, a.hold_reason, true
        from orderly.set_aside as a where o.status = 0 and lease.order_id is null and a.order_id = o.order_id
        offset 0) as waiting on true;

-- The events of orders, assembled from the orders.
create view orderly.order_events as
select o.order_id, e.version, e.kind, e.at, e.attempt, e.node, e.error, e.detail, e.batch
from orderly.orders as o cross join lateral (
    select 1 as version, 0::smallint as kind, o.created_at as at, 0 as attempt, null::bigint as node, null::text as error,
        null::text as detail, o.accepted_in as batch
    union all
    select (h.version + place - 1)::integer, kind, at, attempt, node, error, detail, batch
    from orderly.history as h cross join lateral unnest(h.events) with ordinality
        as event (kind, at, attempt, node, batch, error, detail, place)
    where h.order_id = o.order_id
    union all
    select (o.version - cardinality(orderly.ending(o)) - coalesce(cardinality(o.history), 0) + place)::integer, kind, at, attempt, node,
        error, detail, batch
    from unnest(o.history) with ordinality as event (kind, at, attempt, node, batch, error, detail, place)
    union all
    select (o.version - 2 + place)::integer, kind, at, attempt, node, error, detail, batch
    from unnest(orderly.ending(o)) with ordinality as event (kind, at, attempt, node, batch, error, detail, place)
    union all
    select l.version, 1::smallint, l.started_at, l.attempt, l.node, null, null, l.started_in
    from orderly.leases as l where o.status = 0 and l.order_id = o.order_id and l.started_in is not null
    offset 0
) as e;

-- The events of the feed.
create view orderly.events as
select b.batch, b.first_position, b.first_position + e.place - 1 as position, e.place, e.order_id, coalesce(e.version, 1) as version,
    b.kind, coalesce(e.at, b.at) as at, coalesce(e.attempt, 0) as attempt, coalesce(e.node, b.node) as node, e.error, e.detail, b.passed_over
from orderly.batches as b
    cross join lateral unnest(b.order_ids, b.versions, b.attempts, b.nodes, b.ats, b.errors, b.details)
        with ordinality as e (order_id, version, attempt, node, at, error, detail, place);

-- Locks a row of the counters that no session holds, the preferred one or one of a few others, until the transaction ends.
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
