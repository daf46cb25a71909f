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
select format('batch %s has %s events, %s were written', b.batch, count(e.batch), b.events)
from orderly.batches as b left join orderly.events as e using (batch)
group by b.batch, b.events
having count(e.batch) <> b.events
union all
select format('the next order id would be %s, which is taken', last_value + 1)
from orderly.order_ids
where last_value < (select max(order_id) from orderly.orders)
union all
select format('batch %s begins at %s in the feed, where %s events were placed', batch, first_position, last_position)
from orderly.batches, orderly.queue
where first_position + events - 1 > last_position
limit 100
