-- Cancels order ?1 at time ?2. A running attempt loses its lease, so its result is refused. Served by the primary key.
update orders set
    status = 4,
    version = version + 1,
    lease_expires_at = null,
    outside = 0,
    due_at = null,
    turn = null,
    held_at = null,
    hold_reason = null,
    finished_at = ?2
where order_id = ?1
returning -- the columns of an order
