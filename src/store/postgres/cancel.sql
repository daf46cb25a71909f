-- Cancels order $1 when it is Pending, Processing or Failed; no row when it is not, is unknown, or is locked by another
-- session. $2: counter row. A running attempt's result
-- finds no lease any more. Served by the primary key.
-- Where the orders of a user wait for each other, the next claim sees to the turns of all that changes (see turns.rs).
with moment as materialized (
    select clock_timestamp() as at,
        (select case when ordering > 0 then 2 end from orderly.queue)::int2 as turn
), found as materialized (
    select order_id, status from orderly.orders where order_id = $1 for update skip locked
), changed as (
    update orderly.orders as o set
        status = 4,
        version = o.version + 1,
        lease_expires_at = null,
        outside = false,
        turn = moment.turn,
        due_at = null,
        changed_at = greatest(moment.at, o.changed_at),
        finished_at = greatest(moment.at, o.changed_at)
    from moment, found
    where o.order_id = found.order_id and found.status in (0, 1, 3) and o.status in (0, 1, 3)
    returning o.*, found.status as earlier
), batch as (
    insert into orderly.batches (batch, events)
    select nextval('orderly.batch_ids'), count(*) from changed having count(*) > 0
    returning batch
), recorded as (
    insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt)
    select batch, 0, order_id, version, 7, status, changed_at, attempts from batch, changed
), counted as (
    update orderly.counters set
        pending = pending - (earlier = 0)::int, processing = processing - (earlier = 1)::int,
        failed = failed - (earlier = 3)::int, cancelled = cancelled + 1
    from changed
    where slot = (select orderly.free_counter($2) where exists (select from changed))
)
