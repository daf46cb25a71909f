-- The events behind place $1, in the order of their places, at most $2. They begin in the batch that holds $1 itself,
-- which is the last that begins at or before it. Served by the unique index on first_position and the primary key of events.
select e.order_id, e.version, e.kind, e.status, e.at, e.attempt, e.node, e.error, b.first_position + e.place
from orderly.batches as b join orderly.events as e using (batch)
where b.first_position >= coalesce(
        (select max(first_position) from orderly.batches where first_position <= $1), 0)
    and b.first_position + e.place > $1
order by b.first_position, e.place
limit $2
