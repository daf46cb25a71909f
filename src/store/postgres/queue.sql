-- The numbers, whether the queue is paused, and for how many microseconds the longest waiting order has waited for a
-- start it could have had. The heads of the lines' indexes, where the orders of a user wait for each other those of the
-- lines in turn: the time is a subquery's, since what may change from row to row bounds no index. Then at most :blocked_max
-- orders that wait for another one of their user, and for how long the first of them has; served by orders_blocked.
select sum(pending)::int8, sum(processing)::int8, sum(completed)::int8, sum(failed)::int8, sum(cancelled)::int8,
    sum(processing_micros)::int8,
    (select paused from orderly.queue),
    (select (extract(epoch from clock_timestamp() - min(since)) * 1000000)::int8 from (
        (select created_at as since from orderly.orders
        where status = 0 and due_at is null and (select ordering from orderly.queue) = 0
        order by order_id + 0 limit 1)
        union all
        (select due_at from orderly.orders
        where status = 0 and due_at is not null and crashes < 2 and due_at <= (select clock_timestamp())
            and (select ordering from orderly.queue) = 0
        order by due_at, order_id limit 1)
        union all
        (select due_at from orderly.orders
        where status = 0 and due_at is not null and crashes >= 2 and due_at <= (select clock_timestamp())
            and (select ordering from orderly.queue) = 0
        order by due_at, order_id limit 1)
        union all
        (select created_at from orderly.orders
        where status = 0 and turn = 0 and due_at is null
        order by order_id - 0 limit 1)
        union all
        (select due_at from orderly.orders
        where status = 0 and turn = 0 and due_at is not null and crashes < 2 and due_at <= (select clock_timestamp())
        order by due_at, order_id - 0 limit 1)
        union all
        (select due_at from orderly.orders
        where status = 0 and turn = 0 and due_at is not null and crashes >= 2 and due_at <= (select clock_timestamp())
        order by due_at, order_id - 0 limit 1)) as waiting),
    (select count(*) from (
        select from orderly.orders
        where status = 0 and turn = 1
        order by coalesce(due_at, created_at) limit :blocked_max) as blocked),
    (select (extract(epoch from clock_timestamp() - coalesce(due_at, created_at)) * 1000000)::int8 from orderly.orders
        where status = 0 and turn = 1
        order by coalesce(due_at, created_at) limit 1)
from orderly.counters
