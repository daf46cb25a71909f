-- Stores orders as another store had them, after their events; $1-$33: one row per order.
with asked as materialized (
    select * from unnest($1::int8[], $2::int2[], $3::int4[], $4::int4[], $5::int4[], $6::int4[], $7::int8[], $8::int8[],
        $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[],
        $14::timestamptz[], $15::int8[], $16::int8[], $17::text[], $18::text[], $19::text[], $20::text[],
        $21::text[], $22::bool[], $23::bool[], $24::text[], $25::text[], $26::text[], $27::timestamptz[], $28::timestamptz[],
        $29::text[], $30::bool[], $31::text[], $32::timestamptz[], $33::bool[])
    as o (order_id, status, version, attempts, generation, crashes, fence, node, lease_expires_at, created_at, changed_at,
        processing_at, finished_at, due_at, user_id, total_amount, item_ids, reference, last_error, metadata, result, outside,
        handed_out, user_name, currency, lines, start_after, held_at, hold_reason, set_aside, milestone, deadline, overdue)
), tail as materialized (
    -- The number of last events that other columns tell: the start of a running attempt, or the start and the end of the last one.
    select asked.order_id, case
        when asked.status = 1 and last.kind = 1 then 1
        when asked.status in (2, 3) and last.kind in (2, 4) and before.kind = 1 and before.node is not distinct from last.node then 2
        else 0 end as events
    from asked
        left join copied_events as last on last.order_id = asked.order_id and last.version = asked.version
        left join copied_events as before on before.order_id = asked.order_id and before.version = asked.version - 1
), chunk as materialized (
    -- The events that no other column of the row tells, in parts that fit into the row.
    select order_id, (e.version - 2) / 60 as number, min(e.version) as version,
        array_agg(row(kind, at, attempt, e.node, batch, error, detail)::orderly.event order by e.version) as events
    from asked join tail using (order_id) join copied_events as e using (order_id)
    where e.version between 2 and asked.version - tail.events
    group by order_id, (e.version - 2) / 60
), last_chunk as materialized (
    select distinct on (order_id) * from chunk order by order_id, number desc
), stored as (
    insert into orderly.orders (order_id, user_id, total_amount, created_at, accepted_in, item_ids, reference, metadata, status,
        version, attempts, generation, crashes, fence, node, handed_out, changed_at, processing_at, finished_at, started_in,
        ended_in, last_error, result, history, user_name, currency, lines, start_after, milestone, deadline,
        overdue)
    select order_id, user_id, total_amount, created_at,
        coalesce((select batch from copied_events as e where e.order_id = asked.order_id and e.version = 1), 0),
        item_ids, reference, metadata, case status when 1 then 0 else status end, asked.version - case when status = 1 then tail.events else 0 end, attempts - (status = 1)::int,
        generation, crashes, fence - (status = 1)::int, case when status <> 1 then node end, handed_out and status <> 1,
        changed_at, case when status <> 1 then processing_at end, finished_at,
        (select batch from copied_events as e
        where e.order_id = asked.order_id and e.version = asked.version - 1 and tail.events = 2),
        (select batch from copied_events as e
        where e.order_id = asked.order_id and e.version = asked.version and tail.events = 2),
        last_error, result, last_chunk.events, user_name, currency, lines, start_after, milestone, deadline,
        overdue
    from asked join tail using (order_id) left join last_chunk using (order_id)
), earlier as (
    insert into orderly.history (order_id, version, events)
    select order_id, chunk.version, chunk.events from chunk
    where (order_id, number) not in (select order_id, number from last_chunk)
), first_line as (
    insert into orderly.first_line select order_id from asked where status = 0 and due_at is null and not set_aside
), second_line as (
    insert into orderly.second_line (order_id, due_at, suspect)
    select order_id, due_at, crashes >= 2 from asked where status = 0 and due_at is not null and not set_aside
), aside as (
    insert into orderly.set_aside (order_id, user_id, held_at, hold_reason, start_after, due_at, suspect)
    select order_id, user_id, held_at, hold_reason, start_after, coalesce(due_at, created_at), crashes >= 2 from asked where set_aside
), leased as (
    insert into orderly.leases (
        order_id, fence, node, version, attempt, started_at, started_in, expires_at, outside, handed_out)
    select order_id, fence, node, version, attempts, processing_at,
        case when tail.events = 1 then
            (select batch from copied_events as e where e.order_id = asked.order_id and e.version = asked.version) end,
        lease_expires_at, outside, handed_out
    from asked join tail using (order_id) where status = 1
), timed as (
    insert into orderly.deadlines (order_id, deadline)
    select order_id, deadline from asked where status < 2 and deadline is not null and not overdue
), overdue as (
    insert into orderly.overdue (order_id, user_id) select order_id, user_id from asked where overdue
), failed as (
    insert into orderly.failed (order_id, user_id) select order_id, user_id from asked where status = 3
)
insert into orderly.cancelled (order_id, user_id) select order_id, user_id from asked where status = 4
