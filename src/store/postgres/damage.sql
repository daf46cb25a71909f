-- One line for each thing that is wrong with the tables themselves.
select format('%s events belong to no order', count(*))
from orderly.events as e
where not exists (select from orderly.orders as o where o.order_id = e.order_id)
having count(*) > 0
union all
select format('%s events belong to no batch', count(*))
from orderly.events as e
where not exists (select from orderly.batches as b where b.batch = e.batch)
having count(*) > 0
union all
-- What was taken out was taken out from below; a batch of which nothing is left goes as well.
select format('batch %s has %s of the events that it must have, %s were written', b.batch, b.found, b.events)
from (
    select batch, events,
        greatest(events - greatest(coalesce(oldest_position - first_position + 1, 0), 0), 0) as expected,
        count(e.batch) filter (where first_position is null or first_position + place > oldest_position) as found,
        count(e.batch) as present
    from orderly.queue cross join orderly.batches left join orderly.events as e using (batch)
    group by batch, events, first_position, oldest_position
) as b
where b.found <> b.expected or b.present = 0 or b.present > b.events
union all
select format('the next order id would be %s, which is taken', last_value + 1)
from orderly.order_ids
where last_value < (select max(order_id) from orderly.orders)
union all
select format('batch %s begins at %s in the feed, where %s events were placed', batch, first_position, last_position)
from orderly.batches, orderly.queue
where first_position + events - 1 > last_position
union all
select format('the feed has %s events behind place %s, %s were placed', count(e.batch), oldest_position,
    last_position - oldest_position)
from orderly.queue left join (
        orderly.batches as b join orderly.events as e using (batch)
    ) on b.first_position + e.place > oldest_position
group by oldest_position, last_position
having count(e.batch) <> last_position - oldest_position
limit 100
