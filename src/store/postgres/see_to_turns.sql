-- Sees to the turns of at most :unseen_max changed orders, the oldest first: for each of their users, the first order that is
-- open has its turn when it is Pending and none is in processing; with :blocks, a Failed order is open as well. Under the
-- claim's lock. What another transaction is changing at this moment, or has changed since this statement began, is left to the
-- next claim.
-- Served by orders_unseen, orders_user and orders_turn.
with unseen as materialized (
    select order_id, user_id, version from orderly.orders
    where turn = 2
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
), seen as (
    update orderly.orders as o
    set turn = case when o.status <> 0 then null when o.order_id = next.order_id then 0 else 1 end
    from unseen join next using (user_id)
    where o.order_id = unseen.order_id and o.turn = 2
        -- What was locked may be newer than what this statement sees otherwise, and decided by: then its mark stays.
        and unseen.version = (select s.version from orderly.orders as s where s.order_id = unseen.order_id)
), taken_back as (
    update orderly.orders as o set turn = 1
    from next
    where o.user_id = next.user_id and o.status = 0 and o.turn = 0 and o.order_id is distinct from next.order_id
), given as (
    update orderly.orders as o set turn = 0
    from next
    where o.order_id = next.order_id and o.status = 0 and o.turn = 1
)
select count(*) as unseen from unseen;
