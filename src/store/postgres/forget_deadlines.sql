-- Removes the rows of those of the orders $1 whose deadline cannot fire any more. Other statements leave such a row behind if
-- another session has locked it. An order that is reopened meanwhile keeps its row: its own row is locked first.
with stale as materialized (
    select order_id from orderly.orders
    where order_id = any ($1::int8[]) and (status > 0 or overdue or deadline is null)
    for no key update skip locked
)
delete from orderly.deadlines where order_id = any (array(
    select d.order_id from orderly.deadlines as d
    where d.order_id = any ($1::int8[]) and (
        d.order_id in (select order_id from stale)
        or not exists (select from orderly.orders as o where o.order_id = d.order_id))
    for update skip locked))
