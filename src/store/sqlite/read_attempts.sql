-- The number of the orders with the ids from ?1 to ?2 that have the lease with the fence ?3, and the time that all their
-- attempts together took until ?4. Served by the primary key.
select count(*), coalesce(sum(max(?4 - processing_at, 0)), 0) from orders
where order_id between ?1 and ?2 and fence = ?3 and status = 1
