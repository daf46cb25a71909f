-- Sets order ?1 aside at time ?2 for the reason ?3. The order must be Pending and not held. Served by the primary key.
update orders set version = version + 1, turn = 2, held_at = ?2, hold_reason = ?3, due_at = nullif(due_at, created_at)
where order_id = ?1
returning -- the columns of an order
