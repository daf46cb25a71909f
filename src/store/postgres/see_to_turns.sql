-- Updates the turns of the users of at most :unseen_max changed orders (turn = 2), the oldest first. For each user, the first
-- open order gets the turn when it is Pending and none is in processing. With :blocks, a Failed order counts as open.
-- Runs under the claim's lock.
--
-- Leaves these to a later claim:
-- - an order that another transaction is changing, or has changed since this statement began;
-- - a user whose turn would move from or to an order that another session has locked or that the database refuses to change.
--   The first of the user's changed orders and the order whose turn it would be stay marked until then.
--
-- Served by orders_unseen, orders_user and orders_turn.
with unseen as materialized (
    select order_id, user_id, version from orderly.orders
    where turn = 2 and order_id <> all (:stepped_around)
    order by order_id + 0
    limit :unseen_max
    for update skip locked
), users as materialized (
    select distinct user_id from unseen
), heads as materialized (
    -- Compared as rows, so that no other index gives the order.
    select users.user_id,
        (select order_id from orderly.orders as o
        where (o.user_id, o.status, o.order_id) >= (users.user_id, 0, 0) and (o.user_id, o.status) < (users.user_id, 1)
        order by o.user_id, o.status, o.order_id limit 1) as pending,
        (select order_id from orderly.orders as o
        where (o.user_id, o.status, o.order_id) >= (users.user_id, 1, 0) and (o.user_id, o.status) < (users.user_id, 2)
        order by o.user_id, o.status, o.order_id limit 1) as processing,
        (select order_id from orderly.orders as o
        where (o.user_id, o.status, o.order_id) >= (users.user_id, 3, 0) and (o.user_id, o.status) < (users.user_id, 4)
            and :blocks = 1
        order by o.user_id, o.status, o.order_id limit 1) as failed
    from users
), next as materialized (
    select user_id, case when processing is null and coalesce(failed > pending, true) then pending end as order_id
    from heads
), moved as materialized (
    -- To 1 for those that had the turn, to 0 for the one that gets it.
    select next.user_id, had.order_id, 1 as turn
    from next cross join lateral (
        select order_id from orderly.orders as o
        where o.user_id = next.user_id and o.status = 0 and o.turn = 0 and o.order_id is distinct from next.order_id
        offset 0) as had
    union all
    select next.user_id, gets.order_id, 0
    from next cross join lateral (
        select order_id from orderly.orders as o
        where o.order_id = next.order_id and o.status = 0 and o.turn = 1
        offset 0) as gets
), free as materialized (
    select moved.*
    from moved cross join lateral (
        select 1 as locked from orderly.orders as o
        where o.order_id = moved.order_id and o.status + 0 = 0 and o.turn = 1 - moved.turn
            and o.order_id <> all (:stepped_around)
        for update skip locked) as free
), held_up as materialized (
    select distinct user_id from moved where order_id not in (select order_id from free)
), kept as materialized (
    select user_id, min(order_id) as order_id from unseen where user_id in (select user_id from held_up) group by user_id
    union all
    select user_id, order_id from next where user_id in (select user_id from held_up)
), seen as (
    update orderly.orders as o
    set turn = case when o.status <> 0 then null when o.order_id = next.order_id then 0 else 1 end
    from unseen join next using (user_id)
    where o.order_id = unseen.order_id and o.turn = 2
        and unseen.order_id not in (select order_id from kept where order_id is not null)
        -- What was locked may be newer than what this statement sees otherwise, and decided by: then its mark stays.
        and unseen.version = (select s.version from orderly.orders as s where s.order_id = unseen.order_id)
), turned as (
    update orderly.orders as o set turn = free.turn
    from free
    where o.order_id = free.order_id and o.status + 0 = 0 and o.turn = 1 - free.turn
        and free.user_id not in (select user_id from held_up)
)
select count(*) as unseen from unseen;
