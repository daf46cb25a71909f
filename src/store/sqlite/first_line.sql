-- The oldest orders that never started and may start now, with or without turns. Order ids rise with acceptance, so this is
-- first-in first-out. Served by orders_first alone, so the cost does not depend on any other orders.
select order_id from orders indexed by orders_first
where status = 0 and due_at is null and coalesce(turn, 0) = 0
order by order_id
limit ?1
