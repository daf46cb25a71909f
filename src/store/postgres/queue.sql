-- The numbers, whether the queue is paused, and for how many microseconds the longest waiting order has waited for a
-- start it could have had. The heads of the three lines' indexes: the time is a subquery's, since what may change from
-- row to row bounds no index.
select sum(pending)::int8, sum(processing)::int8, sum(completed)::int8, sum(failed)::int8, sum(cancelled)::int8,
    sum(processing_micros)::int8,
    (select paused from orderly.queue),
    (select (extract(epoch from clock_timestamp() - min(since)) * 1000000)::int8 from (
        (select created_at as since from orderly.orders
        where status = 0 and due_at is null
        order by order_id + 0 limit 1)
        union all
        (select due_at from orderly.orders
        where status = 0 and due_at is not null and crashes < 2 and due_at <= (select clock_timestamp())
        order by due_at, order_id limit 1)
        union all
        (select due_at from orderly.orders
        where status = 0 and due_at is not null and crashes >= 2 and due_at <= (select clock_timestamp())
        order by due_at, order_id limit 1)) as waiting)
from orderly.counters
