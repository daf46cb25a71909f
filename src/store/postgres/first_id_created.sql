-- The lowest id found by bisection of the primary key whose order was created at $1 or later (with $2: later than $1). No
-- row when there is none.
with recursive search as (
    select 0::int8 as low, coalesce((select max(order_id) from orderly.orders), -1) as high, null::int8 as found
    union all
    select
        case when probe.matches then search.low else probe.order_id + 1 end,
        case when probe.matches then (search.low + search.high) / 2 - 1 else search.high end,
        case when probe.matches then probe.order_id else search.found end
    from search cross join lateral (
        select order_id, created_at > $1 or (created_at = $1 and not $2) as matches from orderly.orders
        where order_id >= (search.low + search.high) / 2
        order by order_id limit 1) as probe
    where search.low <= search.high
)
select found from search where low > high and found is not null
