-- Finds the results that were stored among those that were sent before and whose answers were lost: the kind of their event. An
-- order's token counts its claims, so the event that ended an attempt comes right behind the `started` event of that number;
-- it is ours when it is of our kind and of our node, or, for the result of an external worker, of the node that claimed. $1-$4:
-- one row per result. It confirms what was stored before, and so is committed itself: see Link::confirm.
with confirmed as materialized (
    select pg_logical_emit_message(true, 'orderly', 'confirmed')
)
select result.place, result.kind
from unnest($1::int8[], $2::int8[], $3::int8[], $4::int2[])
    with ordinality as result (order_id, token, node, kind, place)
cross join lateral (
    select version, node from orderly.order_events as e
    where e.order_id = result.order_id and e.kind = 1
    order by e.version
    offset result.token - 1 limit 1
) as started
cross join lateral (
    select from orderly.order_events as e
    where e.order_id = result.order_id and e.version = started.version + 1 and e.kind = result.kind
        and e.node = coalesce(result.node, started.node)
    offset 0
) as ended
cross join confirmed
