-- Where order $1 stands: the open order of its user that it waits for, and what is before it in its line, counted up to $2.
-- Served by the primary key, orders_user, and the lines' own indexes.
with moment as materialized (
    select clock_timestamp() as at
), subject as materialized (
    select * from orderly.orders where order_id = $1
), waiting as materialized (
    -- With earlier ones that are open, or one in processing after a redrive.
    select (
        select o.order_id from orderly.orders as o, subject, orderly.queue as queue
        where queue.ordering > 0 and subject.status = 0 and o.user_id = subject.user_id
            and o.order_id <> subject.order_id
            and (o.status = 1 or (o.order_id < subject.order_id
                and (o.status = 0 or (o.status = 3 and queue.ordering = 2))))
        order by o.order_id limit 1
    ) as waits_for
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
