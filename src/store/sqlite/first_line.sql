-- The oldest orders that never started and may start, by either ordering. First-in first-out by order_id: ids rise in the order of acceptance.
-- Served by orders_first alone, so that its cost does not grow with any other orders.
select order_id from orders indexed by orders_first
where status = 0 and due_at is null and coalesce(turn, 0) = 0
order by order_id
limit ?1
