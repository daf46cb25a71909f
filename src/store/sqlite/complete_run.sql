-- Completes the attempts at the orders with the ids from ?1 to ?2, each the one with the fence ?3: it is checked by the
-- statement that writes. The same as end_attempt.sql does for each, where the orders of a user do not wait for each other.
-- Served by the primary key.
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
