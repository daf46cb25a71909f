-- Takes back orders whose leases ran out, the oldest first; those that another node takes back at this moment are left
-- to it. Served by orders_status (a range, so that no other index gives the order): as many rows as orders are being processed, which the slots of the nodes limit.
-- $1: who asks, $2: crashes that make an order poison, $3: most orders, $4: counter row, $5: the only orders to look at, or
-- null, $6: the order behind which to look.
-- Where the orders of a user wait for each other, the next claim sees to the turns of all that changes (see turns.rs).
with moment as materialized (
    select clock_timestamp() as at,
        (select case when ordering > 0 then 2 end from orderly.queue)::int2 as turn
), found as materialized (
    select o.order_id, o.token, o.node, o.crashes,
        -- Nobody knows whether a worker outside lives; one that says nothing counts as dead.
        o.outside or (o.node <> $1 and not exists (
            select from orderly.nodes as n where n.node = o.node and n.expires_at >= (select at from moment))) as died,
        o.outside
    from orderly.orders as o
    where (o.status, o.order_id) > (1, $6) and o.status <= 1 and o.lease_expires_at < (select at from moment)
        and ($5::int8[] is null or o.order_id = any ($5::int8[]))
    order by o.status, o.order_id
    limit $3 + 1
    for update of o skip locked
), expired as materialized (
    select *, died and crashes + 1 >= $2 as poison from found order by order_id limit $3
), ended as (
    update orderly.orders as o set
        status = case when expired.poison then 3 else 0 end,
        version = o.version + 1,
        attempts = o.attempts - (not expired.poison)::int,
        crashes = o.crashes + expired.died::int,
        lease_expires_at = null,
        outside = false,
        turn = moment.turn,
        changed_at = greatest(moment.at, o.changed_at),
        due_at = case when not expired.poison then moment.at end,
        finished_at = case when expired.poison then greatest(moment.at, o.changed_at) end,
        last_error = case when expired.poison
            then format('poison: %s nodes or workers fell silent while they processed this order', o.crashes + 1)
            else o.last_error end
    from moment, expired
    where o.order_id = expired.order_id and o.token = expired.token and o.status = 1
    returning o.order_id, o.version, o.attempts, o.status, o.changed_at, o.node, o.last_error, expired.died,
        expired.outside
), batch as (
    insert into orderly.batches (batch, events)
    select nextval('orderly.batch_ids'), count(*) from ended having count(*) > 0
    returning batch
), recorded as (
    insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt, node, error)
    select batch, row_number() over (order by order_id) - 1, order_id, version,
        case when status = 3 then 4 else 5 end, status, changed_at, attempts, node,
        case
            when status = 3 then last_error
            when outside then 'no result came from outside before the lease ran out'
            when died then format('node %s died while it held the lease', lpad(to_hex(node), 16, '0'))
            else format('node %s let the lease run out', lpad(to_hex(node), 16, '0'))
        end
    from batch, ended
), counted as (
    update orderly.counters as c set
        pending = c.pending + change.pending,
        processing = c.processing - change.pending - change.failed,
        failed = c.failed + change.failed
    from (
        select count(*) filter (where status = 0) as pending, count(*) filter (where status = 3) as failed
        from ended) as change
    where c.slot = (select orderly.free_counter($4) where exists (select from ended)) and change.pending + change.failed > 0
), forgotten as (
    -- A node that died long ago, and holds nothing any more, leaves the list.
    delete from orderly.nodes where node in (
        select n.node from orderly.nodes as n
        where n.expires_at < (select at from moment) - interval '1 hour'
            and not exists (select from orderly.orders as o where o.status = 1 and o.node = n.node)
        for update skip locked)
)
select order_id, status, case when (select count(*) from found) > $3 then (select max(order_id) from expired) end as next
from ended
