-- Finds the results that were stored among those that were sent before without an answer: returns the kind of their event.
-- Within an epoch, the fences of an order count its claims, so the latest fence tells how many claims ago the `started`
-- event of the result was. The event that ended the attempt follows it, after milestones and `overdue`. It is ours if it has our kind and our node
-- or, for the result of an external worker, the node that claimed. If the order was claimed again in a later epoch, the
-- result counts as not stored. $1-$4: one row per result. The statement confirms what was stored before, so it commits as
-- well: see ClassConnection::read_confirmed.
with confirmed as materialized (
    select pg_logical_emit_message(true, 'orderly', 'confirmed')
)
select result.place, result.kind
from unnest($1::int8[], $2::int8[], $3::int8[], $4::int2[])
    with ordinality as result (order_id, fence, node, kind, place)
cross join lateral (
    select s.fence from orderly.order_state as s where s.order_id = result.order_id
    offset 0
) as latest
cross join lateral (
    select version, node from orderly.order_events as e
    where e.order_id = result.order_id and e.kind = 1
    order by e.version desc
    offset greatest(latest.fence - result.fence, 0) limit 1
) as started
cross join lateral (
    select e.kind, e.node from orderly.order_events as e
    where e.order_id = result.order_id and e.version > started.version and e.kind not in (11, 12, 13)
    order by e.version limit 1
) as ended
cross join confirmed
where ended.kind = result.kind and ended.node = coalesce(result.node, started.node) and latest.fence >= result.fence and latest.fence >> 32 = result.fence >> 32
