-- A page of the feed, all of one view: what there is of it, by whose clock, whether there is more without a place yet (served by
-- batches_unnumbered), and the events behind place $1, in the order of their places, at most $2; one row where there are none.
-- They begin in the batch that holds $1 itself, which is the last that begins at or before it. Those of orders that retention took
-- out are left out. Served by the unique index on first_position and the primary key of the orders. The one row of queue is found by
-- its key: guessed to be many, they make the statement seem worth compiling, which takes longer than all the rest.
select (select identity from orderly.epochs order by epoch desc limit 1), queue.complete_after, queue.last_position, clock_timestamp(),
    (select batch from orderly.batches where first_position is null order by batch limit 1) is not null,
    next.order_id, next.version, next.kind, next.at, next.attempt, next.node, next.error, next.position,
    next.user_id
from orderly.queue as queue left join lateral (
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
) as next on true
where queue.id = 1
order by next.position
