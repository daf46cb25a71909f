-- The orders among ?1 (an array of JSON, each id once) that may start at ?2, in the order given. With ?3 suspects too.
-- Served by the primary key, id by id.
select o.order_id, o.due_at is null, o.crashes >= 2
from json_each(?1) as asked cross join orders as o not indexed
where o.order_id = asked.value and o.status = 0 and coalesce(o.turn, 0) = 0
    and (o.due_at is null or o.due_at <= ?2) and (o.crashes < 2 or ?3)
order by asked.key
