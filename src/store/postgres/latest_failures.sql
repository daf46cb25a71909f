-- The $1 Failed orders that were accepted last.
select o.order_id, o.last_error, o.finished_at
from (select f.order_id from orderly.failed as f order by f.order_id desc limit $1) as latest
join orderly.orders as o on o.order_id = latest.order_id
where o.finished_at is not null
order by o.order_id desc
