-- The numbers, whether the queue is paused, and for how many microseconds the longest waiting order has waited for a
-- start it could have had: the heads of the lines, which hold what may start. The time is a subquery's, since what may change
-- from row to row bounds no index. Then the orders that wait for another one of their user, among the first :blocked_max of
-- the table, and for how long the first of them has, among the 1,000 oldest; those whose turn the next claim decides do not
-- count. Served by blocked_since and unseen_user, each user by the first entry at or behind it: statistics that are wrong make
-- an equal one seem worth a walk.
select sum(pending)::int8, sum(processing)::int8, sum(completed)::int8, sum(failed)::int8, sum(cancelled)::int8,
    sum(processing_micros)::int8,
    (select paused from orderly.queue),
    (select (extract(epoch from clock_timestamp() - min(since)) * 1000000)::int8 from (
        (select created_at as since from orderly.orders
        where order_id = (select order_id from orderly.first_line order by order_id limit 1))
        union all
        (select due_at from orderly.second_line
        where not suspect and due_at <= (select clock_timestamp())
        order by due_at, order_id limit 1)
        union all
        (select due_at from orderly.second_line
        where suspect and due_at <= (select clock_timestamp())
        order by due_at, order_id limit 1)) as waiting),
    (select coalesce(sum(orders), 0)::int8 from (
        select user_id, count(*) as orders from (select user_id from orderly.blocked limit :blocked_max) as looked_at
        group by user_id offset 0) as b
    where b.user_id is distinct from (
        select u.user_id from orderly.unseen as u where u.user_id >= b.user_id order by u.user_id limit 1)),
    (select (extract(epoch from clock_timestamp() - since) * 1000000)::int8 from (
        select user_id, since from orderly.blocked order by since, order_id limit 1000) as b
    where b.user_id is distinct from (
        select u.user_id from orderly.unseen as u where u.user_id >= b.user_id order by u.user_id limit 1)
    limit 1)
from orderly.counters
