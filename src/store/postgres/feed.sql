-- The events behind place $1, in the order of their places, at most $2. They begin in the batch that holds $1 itself,
-- which is the last that begins at or before it. Those of orders that retention took out are left out. Served by the unique
-- index on first_position and the primary key of the orders.
select order_id, version, kind, at, attempt, node, error, position, user_id
from orderly.events cross join lateral (
    select user_id from orderly.orders as o where o.order_id = events.order_id offset 0) as its_order
where first_position >= coalesce(
        -- Not max(), for which the planner reads all that lie below when its statistics are from before they had places.
        (select first_position from orderly.batches
        where first_position <= $1 order by first_position desc limit 1), 0)
    and position > $1
order by first_position, place
limit $2
