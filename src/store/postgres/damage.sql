-- Returns one line for each contradiction in the tables. Events of removed orders are not compared: the join drops them.
select format('order %s: its history and the feed differ at version %s', order_id, version)
from (
    select coalesce(h.order_id, f.order_id) as order_id, coalesce(h.version, f.version) as version
    from orderly.order_events as h full join (
            select e.* from orderly.events as e join orderly.orders using (order_id)) as f
        on f.order_id = h.order_id and f.version = h.version
    where (h.kind, h.at, h.attempt, h.node, h.error, h.detail, h.batch) is distinct from (f.kind, f.at, f.attempt, f.node, f.error, f.detail, f.batch)
    limit 100
) as differing
union all
select format('order %s has events in the feed and is not there', min(order_id))
from orderly.queue cross join orderly.events as e
where (e.position is null or e.position > complete_after)
    and not exists (select from orderly.orders as o where o.order_id = e.order_id)
having count(*) > 0
union all
select format('batch %s belongs to no order', batch)
from orderly.batches as b
where not exists (
    select from unnest(b.order_ids) as of_batch (order_id)
    where exists (select from orderly.orders as o where o.order_id = of_batch.order_id))
union all
select format('batch %s has %s orders and does not tell the same number of everything else', batch, cardinality(order_ids))
from orderly.batches
where cardinality(versions) <> cardinality(order_ids) or cardinality(attempts) <> cardinality(order_ids)
    or cardinality(nodes) <> cardinality(order_ids) or cardinality(ats) <> cardinality(order_ids)
    or cardinality(errors) <> cardinality(order_ids) or cardinality(details) <> cardinality(order_ids)
union all
select format('order %s is %s and stands in %s lines or leases', o.order_id,
    case o.status when 0 then 'open' else 'ended' end, count(place.order_id))
from orderly.orders as o left join (
        select order_id from orderly.first_line
        union all select order_id from orderly.second_line
        union all select order_id from orderly.blocked
        union all select order_id from orderly.set_aside
        union all select order_id from orderly.leases) as place using (order_id)
group by o.order_id, o.status
having count(place.order_id) <> (o.status = 0)::int
union all
select format('order %s waits or runs and is not there', place.order_id)
from (
    select order_id from orderly.first_line
    union all select order_id from orderly.second_line
    union all select order_id from orderly.blocked
    union all select order_id from orderly.set_aside
    union all select order_id from orderly.leases) as place
where not exists (select from orderly.orders as o where o.order_id = place.order_id)
union all
select format('order %s is listed as %s and is not', listed.order_id, listed.name)
from (
    select order_id, 3 as status, 'failed' as name from orderly.failed
    union all select order_id, 4, 'cancelled' from orderly.cancelled) as listed
where not exists (
    select from orderly.orders as o where o.order_id = listed.order_id and o.status = listed.status)
union all
select format('order %s is %s and is not in the list of such orders', o.order_id, case when o.overdue then 'overdue' else 'timed' end)
from orderly.orders as o
where o.overdue and not exists (select from orderly.overdue as l where l.order_id = o.order_id and l.user_id = o.user_id)
    or o.status = 0 and o.deadline is not null and not o.overdue
        and not exists (select from orderly.deadlines as d where d.order_id = o.order_id and d.deadline = o.deadline)
union all
select format('order %s is listed as overdue and is not', order_id)
from orderly.overdue as l
where not exists (select from orderly.orders as o where o.order_id = l.order_id and o.overdue)
union all
select format('order %s is missing in the list of its status', order_id)
from orderly.orders as o
where status = 3 and not exists (select from orderly.failed as f where f.order_id = o.order_id and f.user_id = o.user_id)
    or status = 4 and not exists (select from orderly.cancelled as c where c.order_id = o.order_id and c.user_id = o.user_id)
union all
select format('the next order id would be %s, which is taken', last_value + 1)
from orderly.order_ids
where last_value < (select max(order_id) from orderly.orders)
union all
select format('batch %s begins at %s in the feed, where %s events were placed', batch, first_position, last_position)
from orderly.batches, orderly.queue
where first_position + cardinality(order_ids) - 1 > last_position
union all
select format('batch %s begins at %s in the feed, within the batch before it', batch, first_position)
from (
    select batch, first_position, lag(first_position + cardinality(order_ids)) over (order by first_position) as free_from
    from orderly.batches where first_position is not null) as placed
where first_position < free_from
union all
select format('batch %s has an order twice', batch)
from orderly.batches as b
where cardinality(order_ids) <> (select count(distinct order_id) from unnest(b.order_ids) as of_batch (order_id))
union all
select format('the feed has %s events behind place %s, %s were placed', count(e.position), complete_after,
    last_position - complete_after)
from orderly.queue left join orderly.events as e on e.position > complete_after
group by complete_after, last_position
having count(e.position) <> last_position - complete_after
limit 100
