-- Starts the orders with ids ?1 to ?2, all of which must wait in the first line. Their fences will be higher than ?8.
-- Served by the primary key.
update or rollback orders not indexed set
    status = 1,
    version = version + 1,
    attempts = attempts + 1,
    fence = max(fence, ?8) + 1,
    node = ?3,
    lease_expires_at = ?4,
    processing_at = ?5,
    outside = ?6,
    handed_out = ?7
where order_id between ?1 and ?2 and status = 0 and due_at is null
