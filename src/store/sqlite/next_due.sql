-- The earliest due time in the second line. Suspects count only if ?1 is true; orders in the array ?2 do not count.
-- Reads the head of two indexes.
select min(due_at) from (
    select * from (
        select due_at from orders indexed by orders_due
        where status = 0 and due_at is not null and coalesce(turn, 0) = 0 and crashes < 2
            and order_id not in (select value from json_each(?2))
        order by due_at, order_id limit 1)
    union all
    select * from (
        select due_at from orders indexed by orders_suspect
        where status = 0 and due_at is not null and coalesce(turn, 0) = 0 and crashes >= 2 and ?1
            and order_id not in (select value from json_each(?2))
        order by due_at, order_id limit 1)
)
