-- Redrives the orders $1, by rising id, that are Failed or Cancelled. With $3 also makes those due that are Pending and back
-- off: they keep their attempts and their generation. The others, and those that another session has locked, have no row in
-- the answer.
-- $2: counter row. Served by the primary key.
-- Where the orders of a user wait for each other, the next claim sees to the turns of all that changes (see turns.rs).
with moment as materialized (
    select clock_timestamp() as at,
        (select case when ordering > 0 then 2 end from orderly.queue)::int2 as turn
), found as materialized (
    select order_id, status, status = 0 as backs_off from orderly.orders
    where order_id = any ($1::int8[])
    order by order_id
    for update skip locked
), changed as (
    update orderly.orders as o set
        status = 0,
        version = o.version + 1,
        attempts = case when backs_off then o.attempts else 0 end,
        crashes = case when backs_off then o.crashes else 0 end,
        generation = o.generation + (not backs_off)::int,
        finished_at = null,
        due_at = moment.at,
        changed_at = greatest(moment.at, o.changed_at),
        last_error = case when backs_off then o.last_error end,
        turn = case when backs_off then o.turn else moment.turn end
    from moment, found
    where o.order_id = found.order_id
        and (found.status in (3, 4) and o.status in (3, 4) or $3 and backs_off and o.status = 0 and o.due_at > moment.at)
    returning o.*, found.status as earlier
), batch as (
    insert into orderly.batches (batch, events)
    select nextval('orderly.batch_ids'), count(*) from changed having count(*) > 0
    returning batch
), recorded as (
    insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt)
    select batch, row_number() over (order by order_id) - 1, order_id, version, 8, status, changed_at, attempts
    from batch, changed
), counted as (
    update orderly.counters as c set
        pending = c.pending + change.failed + change.cancelled,
        failed = c.failed - change.failed,
        cancelled = c.cancelled - change.cancelled
    from (
        select count(*) filter (where earlier = 3) as failed, count(*) filter (where earlier = 4) as cancelled
        from changed) as change
    where c.slot = (select orderly.free_counter($2) where exists (select from changed)) and change.failed + change.cancelled > 0
)
