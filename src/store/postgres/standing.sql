-- The place of an order. Where order $1 stands: the open order of its user that it waits for, and the orders before it in
-- its line, counted up to $2. Served by the primary key, the indexes by user, and the lines. `offset 0` keeps the planner
-- from reading tables whole in order to hash them.
with moment as materialized (
    select clock_timestamp() as at
), subject as materialized (
    select * from orderly.order_state where order_id = $1
), waiting as materialized (
    -- The order of the user that has the turn, runs, or comes before this one. Reads the heads of the user's orders,
    -- compared as rows, so that no other index provides the order.
    select case when queue.ordering > 0 and subject.status = 0 then least(
        (select b.order_id from orderly.blocked as b
        where (b.user_id, b.order_id) >= (subject.user_id, 0) and (b.user_id, b.order_id) < (subject.user_id, subject.order_id)
        order by b.user_id, b.order_id limit 1),
        (select min(t.order_id) from orderly.turns as t
        where t.user_id = subject.user_id and (
            t.order_id < subject.order_id and (
                exists (select from orderly.first_line as l where l.order_id = t.order_id offset 0)
                or exists (select from orderly.second_line as l where l.order_id = t.order_id offset 0))
            or exists (select from orderly.leases as l where l.order_id = t.order_id offset 0))),
        (select f.order_id from orderly.failed as f
        where (f.user_id, f.order_id) >= (subject.user_id, 0) and (f.user_id, f.order_id) < (subject.user_id, subject.order_id)
            and queue.ordering in (2, 4)
        order by f.user_id, f.order_id limit 1),
        (select s.order_id from orderly.set_aside as s
        where (s.user_id, s.order_id) >= (subject.user_id, 0) and (s.user_id, s.order_id) < (subject.user_id, subject.order_id)
            and queue.ordering in (1, 2)
        order by s.user_id, s.order_id limit 1)) end as waits_for
    from subject, orderly.queue as queue
    where queue.id = 1
), first_line as materialized (
    select order_id from orderly.first_line
    where order_id < (select case when due_at is null then order_id else 9223372036854775807 end from subject)
    order by order_id desc
    limit $2
), second_line as materialized (
    select order_id from orderly.second_line
    where not suspect and (due_at, order_id) < (
        select coalesce(subject.due_at, moment.at), case when subject.due_at is null then 9223372036854775807 else order_id end
        from subject, moment)
    order by due_at desc, order_id desc
    limit $2
), place as materialized (
    -- The nearest order before it comes first.
    select
        case when subject.status <> 0 or subject.due_at > moment.at or subject.set_aside then null
            when subject.due_at is null then (select count(*) from first_line)
            else (select count(*) from second_line) end as ahead,
        case when subject.due_at is null then (select order_id from first_line limit 1)
            else (select order_id from second_line limit 1) end as behind,
        case when subject.due_at is null then (select count(*) from second_line)
            else (select count(*) from first_line) end as other_line
    from subject, moment
)
