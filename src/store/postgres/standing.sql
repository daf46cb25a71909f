-- Where order $1 stands: the open order of its user that it waits for, and what is before it in its line, counted up to $2.
-- Served by the primary key, orders_user, and the lines' own indexes.
with moment as materialized (
    select clock_timestamp() as at
), subject as materialized (
    select * from orderly.orders where order_id = $1
), waiting as materialized (
    -- Earlier ones that are open, or one in processing after a redrive: the heads of what the user has, compared as rows, so
    -- that no other index gives the order.
    select case when queue.ordering > 0 and subject.status = 0 then least(
        (select o.order_id from orderly.orders as o
        where (o.user_id, o.status, o.order_id) >= (subject.user_id, 0, 0)
            and (o.user_id, o.status, o.order_id) < (subject.user_id, 0, subject.order_id)
        order by o.user_id, o.status, o.order_id limit 1),
        (select o.order_id from orderly.orders as o
        where (o.user_id, o.status, o.order_id) >= (subject.user_id, 1, 0) and (o.user_id, o.status) < (subject.user_id, 2)
        order by o.user_id, o.status, o.order_id limit 1),
        (select o.order_id from orderly.orders as o
        where (o.user_id, o.status, o.order_id) >= (subject.user_id, 3, 0)
            and (o.user_id, o.status, o.order_id) < (subject.user_id, 3, subject.order_id) and queue.ordering = 2
        order by o.user_id, o.status, o.order_id limit 1)) end as waits_for
    from subject, orderly.queue as queue
), first_line as materialized (
    select order_id from orderly.orders
    where status = 0 and due_at is null and order_id + 0 < (
        select case when due_at is null then order_id else 9223372036854775807 end from subject)
    order by order_id + 0 desc
    limit $2
), second_line as materialized (
    select order_id from orderly.orders
    where status = 0 and due_at is not null and crashes < 2 and (due_at, order_id) < (
        select coalesce(subject.due_at, moment.at), case when subject.due_at is null then 9223372036854775807 else order_id end
        from subject, moment)
    order by due_at desc, order_id desc
    limit $2
), place as materialized (
    -- The latest before it comes first.
    select
        case when subject.status <> 0 or subject.due_at > moment.at then null
            when subject.due_at is null then (select count(*) from first_line)
            else (select count(*) from second_line) end as ahead,
        case when subject.due_at is null then (select order_id from first_line limit 1)
            else (select order_id from second_line limit 1) end as behind,
        case when subject.due_at is null then (select count(*) from second_line)
            else (select count(*) from first_line) end as other_line
    from subject, moment
)
