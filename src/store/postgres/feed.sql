-- The events behind place $1, in the order of their places, at most $2. They begin in the batch that holds $1 itself,
-- which is the last that begins at or before it. Served by the unique index on first_position and the primary key of
-- events, batch by batch: `offset 0` keeps the planner from joining what it could read whole, which it takes for cheap
-- because it cannot know how little there is behind $1.
select e.order_id, e.version, e.kind, e.status, e.at, e.attempt, e.node, e.error, e.position
from orderly.batches as b cross join lateral (
    select order_id, version, kind, status, at, attempt, node, error, b.first_position + place as position
    from orderly.events
    where events.batch = b.batch and b.first_position + place > $1
    order by place
    offset 0
) as e
where b.first_position >= coalesce(
        -- Not max(), for which the planner reads all that lie below when its statistics are from before they had places.
        (select first_position from orderly.batches
        where first_position <= $1 order by first_position desc limit 1), 0)
order by b.first_position, e.position
limit $2
