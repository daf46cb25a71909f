-- A page of the feed, in one view of the database: the bounds of the feed, the server's time, whether there are unnumbered
-- events (served by batches_unnumbered), and the events after position $1 in the order of their positions, at most $2; one
-- row when there are none. The events begin in the batch that holds $1, which is the last one that begins at or before it.
-- Events of orders removed by retention are left out. Served by the unique index on first_position and the primary key of
-- the orders. The single row of queue is found by its key: without it, the planner expects many rows and compiles the
-- statement, which takes longer than running it.
select (select identity from orderly.epochs order by epoch desc limit 1), queue.complete_after, queue.last_position, clock_timestamp(),
    (select batch from orderly.batches where first_position is null order by batch limit 1) is not null,
    next.order_id, next.version, next.kind, next.at, next.attempt, next.node, next.error, next.detail, next.position,
    next.user_id, next.user_name
from orderly.queue as queue left join lateral (
    select order_id, version, kind, at, attempt, node, error, detail, position, user_id, user_name
    from orderly.events cross join lateral (
        select user_id, user_name from orderly.orders as o where o.order_id = events.order_id offset 0) as its_order
    where first_position >= coalesce(
            -- Not max(): with statistics from before the batches were numbered, the planner reads everything below.
            (select first_position from orderly.batches
            where first_position <= $1 order by first_position desc limit 1), 0)
        and position > $1
    order by first_position, place
    limit $2
) as next on true
where queue.id = 1
order by next.position
