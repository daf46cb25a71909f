-- Due orders of the second line that may start and are not suspects, longest due first.
-- Served by orders_due alone; orders still in backoff lie beyond the range that is read.
select due_at, order_id from orders indexed by orders_due
where status = 0 and due_at is not null and coalesce(turn, 0) = 0 and crashes < 2 and due_at <= ?1
order by due_at, order_id
limit ?2
