-- Reads the numbers of the queue, since when it is paused, if it is, and why, the rule by which the orders of a user wait for each other, and for
-- how many microseconds the longest waiting order of the lines has waited since it could have started. The time is a
-- subquery, because an expression that may change from row to row cannot bound an index scan. On the run of the server
-- named $2, no order at or below $1 is in the first line any more (the lower bound).
select sum(pending)::int8, sum(processing)::int8, sum(completed)::int8, sum(failed)::int8, sum(cancelled)::int8,
    sum(processing_micros)::int8, (select paused_at from orderly.queue), (select ordering from orderly.queue),
    (select (extract(epoch from clock_timestamp() - min(since)) * 1000000)::int8 from (
        (select created_at as since from orderly.orders
        where order_id = (
            select order_id from orderly.first_line
            where order_id > (
                select case when extract(epoch from pg_postmaster_start_time())::text || ' ' || oid = $2 then $1 else 0 end
                from pg_database where datname = current_database())
            order by order_id limit 1))
        union all
        (select due_at from orderly.second_line
        where not suspect and due_at <= (select clock_timestamp())
        order by due_at, order_id limit 1)
        union all
        (select due_at from orderly.second_line
        where suspect and due_at <= (select clock_timestamp())
        order by due_at, order_id limit 1)) as waiting),
    (select pause_reason from orderly.queue), sum(held)::int8, sum(scheduled)::int8
from orderly.counters
