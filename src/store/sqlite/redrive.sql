-- Redrives order ?1 at time ?2. The order must be Failed, Cancelled, or Pending in backoff. A Pending order keeps its
-- attempts, generation and turn; the others get the turn ?3, and keep the
-- generation if ?4. Served by the primary key.
update orders set
    status = 0,
    version = version + 1,
    attempts = case status when 0 then attempts else 0 end,
    crashes = case status when 0 then crashes else 0 end,
    generation = generation + (status <> 0 and not ?4),
    finished_at = null,
    due_at = ?2,
    last_error = case status when 0 then last_error end,
    turn = case status when 0 then turn else ?3 end
where order_id = ?1
returning -- the columns of an order
