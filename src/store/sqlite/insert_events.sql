-- Inserts one event for each order with an id from ?5 to ?6; all of these orders must exist and have made the same change.
-- The position of each event is its order id plus ?1; the other columns that differ are read from the order's row.
-- `or rollback`, as in every statement here that changes many rows: a violated constraint fails the transaction anyway, and
-- SQLite then keeps no copies of pages to undo the statement alone. Served by the primary key.
insert or rollback into events (position, order_id, version, kind, status, at, attempt, node)
select order_id + ?1, order_id, version, ?2, status, ?3, attempts, ?4 from orders
where order_id between ?5 and ?6
order by order_id
