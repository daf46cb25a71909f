-- Reads three numbers. First, for how many microseconds the longest waiting order has waited among those
-- whose turn the next claim decides; how many other orders wait for one of their user, among the first $3 of the table; and for
-- how many microseconds the first of those has waited, among the 1,000 oldest. Served by the primary keys, blocked_user and
-- blocked_since.
with undecided as materialized (
    -- The first order of each user without a turn.
    select (
        select b.order_id from orderly.blocked as b
        where (b.user_id, b.order_id) >= (users.user_id, 0) and b.user_id <= users.user_id
        order by b.user_id, b.order_id limit 1) as order_id
    from (
        select distinct user_id from (select user_id from orderly.unseen order by change limit 1000) as oldest) as users
    where users.user_id is distinct from (
        select t.user_id from orderly.turns as t where t.user_id >= users.user_id order by t.user_id, t.order_id limit 1)
)
select
    (select (extract(epoch from clock_timestamp() - min(b.since)) * 1000000)::int8
    from undecided cross join lateral (
        select since from orderly.blocked where blocked.order_id = undecided.order_id offset 0) as b
    where b.since <= (select clock_timestamp())),
    (select count(*) from (select from orderly.blocked limit $3) as looked_at) - (select count(order_id) from undecided),
    (select (extract(epoch from clock_timestamp() - since) * 1000000)::int8 from (
        select order_id, since from orderly.blocked order by since, order_id limit 1000) as b
    where order_id not in (select order_id from undecided where order_id is not null)
    limit 1)
