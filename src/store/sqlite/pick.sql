-- The orders in ?1 (a JSON array in which each id stands once) that may start at time ?2, in the order of the array.
-- Includes suspects if ?3 is true. Served by the primary key, one lookup per id.
select o.order_id, o.due_at is null, o.crashes >= 2
from json_each(?1) as asked cross join orders as o not indexed
where o.order_id = asked.value and o.status = 0 and coalesce(o.turn, 0) = 0
    and (o.due_at is null or o.due_at <= ?2) and (o.crashes < 2 or ?3)
order by asked.key
