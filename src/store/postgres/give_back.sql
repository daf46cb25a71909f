-- Takes back orders whose leases ran out, by rising id; those that another node takes back at this moment are left to it.
-- Walks the key of leases: a row for each order being processed, and dead entries while a session holds an old snapshot.
-- $1: who asks, $2: crashes that make an order poison, $3: most orders, $4: counter row, $5: the only orders to look at, or
-- null, $6: the order behind which to look.
with moment as materialized (
    select clock_timestamp() as at
), found as materialized (
    select l.order_id, l.token, l.node, l.outside, lpad(to_hex(l.node), 16, '0') as node_name,
        -- Nobody knows whether a worker outside lives; one that says nothing counts as dead.
        l.outside or (l.node <> $1 and not exists (
            select from orderly.nodes as n where n.node = l.node and n.expires_at >= (select at from moment))) as died,
        (select crashes from orderly.orders as o where o.order_id = l.order_id) as crashes
    from orderly.leases as l
    where l.order_id > $6 and l.expires_at < (select at from moment)
        and ($5::int8[] is null or l.order_id = any ($5::int8[]))
    order by l.order_id
    limit $3 + 1
    for update of l skip locked
), expired as materialized (
    select *, died and crashes + 1 >= $2 as poison from found order by order_id limit $3
), told as materialized (
    select *,
        case
            when poison then format('poison: %s nodes or workers fell silent while they processed this order', crashes + 1)
            when outside then 'no result came from outside before the lease ran out'
            when died then format('node %s died while it held the lease', node_name)
            else format('node %s let the lease run out', node_name)
        end as error
    from expired
), ended as materialized (
    select ended.*
    from (
        select array_agg(order_id order by order_id) as order_ids, array_agg(token order by order_id) as tokens,
            array_agg(node order by order_id) as nodes,
            array_agg(case when poison then 4 else 5 end::int2 order by order_id) as kinds,
            array_agg(case when poison then 3 else 0 end::int2 order by order_id) as statuses,
            array_agg(not poison order by order_id) as given_backs,
            array_agg(case when poison then null else 0 end::int8 order by order_id) as due_ins_micros,
            array_agg(error order by order_id) as errors,
            array_agg(case when poison then error end order by order_id) as new_last_errors,
            array_agg(died order by order_id) as crasheds
        from told) as lost
        cross join lateral :settle(order_ids, tokens, nodes, kinds, statuses, given_backs, due_ins_micros, errors,
            new_last_errors, null, crasheds, $4) as ended
    where lost.order_ids is not null
), forgotten as (
    -- A node that died long ago, and holds nothing any more, leaves the list.
    delete from orderly.nodes where node in (
        select n.node from orderly.nodes as n
        where n.expires_at < (select at from moment) - interval '1 hour'
            and not exists (select from orderly.leases as l where l.node = n.node)
        for update skip locked)
)
-- Then, without an order, where the next call goes on.
select ended_order_id, ended_status, null::int8 from ended where ended_status is not null
union all
select null, null, max(order_id) from expired having (select count(*) from found) > $3
