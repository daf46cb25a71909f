-- Due suspects of the second line that may start, longest due first, at most ?2. Served by orders_suspect alone.
select due_at, order_id from orders indexed by orders_suspect
where status = 0 and due_at is not null and coalesce(turn, 0) = 0 and crashes >= 2 and due_at <= ?1
order by due_at, order_id
limit ?2
