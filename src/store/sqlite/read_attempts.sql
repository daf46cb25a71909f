-- Number of orders with ids ?1 to ?2 whose running attempt has fence ?3, and the sum of these attempts' durations up to
-- time ?4. Served by the primary key.
select count(*), coalesce(sum(max(?4 - processing_at, 0)), 0) from orders
where order_id between ?1 and ?2 and fence = ?3 and status = 1
