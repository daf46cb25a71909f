-- Ends the attempt of order ?1 with fence ?2. The statement that writes checks the fence, so a worker that lost its lease
-- changes nothing. An expired lease still counts until the order is claimed again or given back.
-- Served by the primary key.
update orders set
    status = ?3,
    version = ?4,
    attempts = ?5,
    crashes = crashes + ?6,
    lease_expires_at = null,
    due_at = ?7,
    finished_at = ?8,
    last_error = case when ?9 then coalesce(?10, last_error) else ?10 end,
    result = ?11,
    outside = 0,
    turn = ?12
where order_id = ?1 and fence = ?2 and status = 1
