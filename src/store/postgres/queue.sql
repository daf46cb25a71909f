-- The numbers, whether the queue is paused, and for how many microseconds the longest waiting order has waited for a
-- start it could have had: the heads of the lines, which hold what may start, and orders whose turn the next claim decides. The time
-- is a subquery's, since what may change from row to row bounds no index. Then the other orders that wait for one of their user,
-- among the first :blocked_max of the table, and for how long the first of them has, among the 1,000 oldest.
-- Served by the primary keys, blocked_user and blocked_since.
with undecided as materialized (
    -- Of users without a turn, the first order.
    select (
        select b.order_id from orderly.blocked as b
        where (b.user_id, b.order_id) >= (users.user_id, 0) and b.user_id <= users.user_id
        order by b.user_id, b.order_id limit 1) as order_id
    from (
        select distinct user_id from (select user_id from orderly.unseen order by change limit 1000) as oldest) as users
    where users.user_id is distinct from (
        select t.user_id from orderly.turns as t where t.user_id >= users.user_id order by t.user_id, t.order_id limit 1)
)
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
        order by due_at, order_id limit 1)
        union all
        (select b.since
        from undecided cross join lateral (
            select since from orderly.blocked where blocked.order_id = undecided.order_id offset 0) as b
        where b.since <= (select clock_timestamp()))) as waiting),
    (select count(*) from (select from orderly.blocked limit :blocked_max) as looked_at)
        - (select count(order_id) from undecided),
    (select (extract(epoch from clock_timestamp() - since) * 1000000)::int8 from (
        select order_id, since from orderly.blocked order by since, order_id limit 1000) as b
    where order_id not in (select order_id from undecided where order_id is not null)
    limit 1)
from orderly.counters
