-- Completes the attempts of the orders with ids ?1 to ?2 whose leases have fence ?3; the statement that writes checks the fence.
-- Does for each order what end_attempt.sql does when users have no turns. Served by the primary key.
update or rollback orders set
    status = 2,
    version = version + 1,
    lease_expires_at = null,
    due_at = null,
    finished_at = ?4,
    last_error = null,
    result = null,
    outside = 0,
    turn = null
where order_id between ?1 and ?2 and fence = ?3 and status = 1
