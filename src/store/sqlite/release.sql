-- Releases order ?1, which must be held. It stays set aside if ?2, until its `start_after`; otherwise it enters the second line
-- with the turn ?3, due since it was accepted, or in its backoff as before. Served by the primary key.
update orders set
    version = version + 1,
    turn = case when ?2 then 2 else ?3 end,
    due_at = case when ?2 then due_at else coalesce(due_at, created_at) end,
    held_at = null,
    hold_reason = null
where order_id = ?1
returning -- the columns of an order
