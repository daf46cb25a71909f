-- Ends the attempt of the lease ?1, ?2 and of no other: the fence is checked by the statement that writes, so a
-- worker that lost its lease changes nothing. A lease that ran out but was not given to another still counts.
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
