-- Redrives order ?1 at time ?2. The order must be Failed, Cancelled, or Pending in backoff or scheduled. A Pending order keeps
-- its attempts and generation, and its turn unless it is scheduled; the others keep the generation if ?4. All others
-- get the turn ?3. Served by the primary key.
update orders set
    status = 0,
    version = version + 1,
    attempts = case status when 0 then attempts else 0 end,
    crashes = case status when 0 then crashes else 0 end,
    generation = generation + (status <> 0 and not ?4),
    finished_at = null,
    due_at = ?2,
    last_error = case status when 0 then last_error end,
    turn = case when status = 0 and turn is not 2 then turn else ?3 end,
    start_after = case when start_after > ?2 then null else start_after end
where order_id = ?1
returning -- the columns of an order
