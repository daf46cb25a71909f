-- Stores the amended request of order ?1, which must be Pending or Failed. ?8 tells whether it is set aside then: 0 it stays where it
-- is, 1 it leaves its line, 2 it enters the second line with the turn ?9, due since it was accepted. Served by the primary key.
update orders set
    version = version + 1,
    item_ids = ?2,
    lines = ?3,
    total_amount = ?4,
    reference = ?5,
    metadata = ?6,
    start_after = ?7,
    deadline = ?10,
    turn = case ?8 when 0 then turn when 1 then 2 else ?9 end,
    due_at = case ?8 when 0 then due_at when 1 then nullif(due_at, created_at) else coalesce(due_at, created_at) end
where order_id = ?1
returning -- the columns of an order
