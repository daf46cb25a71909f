-- A heartbeat: the node is alive, and those of its leases that it still has ($1 orders by rising id, $2 fences) last $3
-- microseconds from now. Also reads the settings, the run of the server, and whether there are unnumbered events (served by
-- batches_unnumbered; no other statement finds them when the node that committed them died or never knew). $4: node, $5:
-- slots, $6: running orders, $7: breaker, $8: ordering, $9: processor, $10: name,
-- $11: version, $12: its clock, $13: microseconds since it last started an order.
with moment as materialized (
    select clock_timestamp() as at, $3::int8 * interval '1 microsecond' as lease
), mine as materialized (
    select node from orderly.nodes where node = $4 for update skip locked
), beat as (
    update orderly.nodes as n set
        slots = $5, busy = $6, heartbeat_at = at, expires_at = at + lease, breaker = $7, ordering = $8,
        processor = $9, name = $10, version = $11, clock_ahead = (extract(epoch from $12 - at) * 1000000)::int8,
        last_start_at = coalesce(at - $13::int8 * interval '1 microsecond', n.last_start_at)
    from moment, mine
    where n.node = mine.node
), joined as (
    insert into orderly.nodes as n (
        node, slots, busy, started_at, heartbeat_at, expires_at, breaker, ordering, processor, name, version, clock_ahead,
        last_start_at)
    select $4, $5, $6, at, at, at + lease, $7, $8, $9, $10, $11, (extract(epoch from $12 - at) * 1000000)::int8,
        at - $13::int8 * interval '1 microsecond'
    from moment
    where not exists (select from orderly.nodes where node = $4)
    on conflict (node) do nothing
), held as materialized (
    select * from unnest($1::int8[], $2::int8[]) as held (order_id, fence)
), free as materialized (
    -- A lease that another session has locked is neither renewed nor lost.
    select held.*
    from held cross join lateral (
        select 1 as locked from orderly.leases as l
        where l.order_id = held.order_id and l.fence = held.fence
        for update skip locked) as free
), extended as (
    -- A lease that an external worker holds by now keeps its own time.
    update orderly.leases as l
    set expires_at = case when l.outside then l.expires_at else moment.at + moment.lease end
    from moment
    where l.order_id = any (array(select order_id from free))
    returning l.order_id, l.fence
), locked as materialized (
    select held.* from held
    where (held.order_id, held.fence) not in (select order_id, fence from free) and exists (
        select from orderly.leases as l
        where l.order_id = held.order_id and l.fence = held.fence offset 0)
)
select coalesce((select array_agg(order_id order by order_id, fence) from extended), '{}'),
    coalesce((select array_agg(fence order by order_id, fence) from extended), '{}'),
    (select count(*) from orderly.nodes, moment where node <> $4 and expires_at >= moment.at),
    (select batch from orderly.batches where first_position is null order by batch limit 1) is not null,
    current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
    current_setting('synchronous_standby_names'), (current_setting('neon.timeline_id', true) is not null)::text,
    coalesce((select array_agg(order_id order by order_id, fence) from locked), '{}'),
    coalesce((select array_agg(fence order by order_id, fence) from locked), '{}'),
    extract(epoch from pg_postmaster_start_time())::text || ' ' || (select oid from pg_database where datname = current_database())
