-- Cancels the order that lock_orders.sql has locked. The result of a running attempt then finds no lease. Where the orders
-- of a user wait for each other, the next claim assigns their turns.
, lease_gone as (
    delete from orderly.leases where order_id = any (array(select order_id from lease))
), first_line_gone as (
    delete from orderly.first_line where order_id = any (array(select order_id from first_line))
), second_line_gone as (
    delete from orderly.second_line where order_id = any (array(select order_id from second_line))
), failed_gone as (
    delete from orderly.failed where order_id = any (array(select order_id from failed))
), cancelled_gone as (
    delete from orderly.cancelled where order_id = any (array(select order_id from cancelled))
), blocked_gone as (
    delete from orderly.blocked where order_id = any (array(select order_id from blocked))
), set_aside_gone as (
    delete from orderly.set_aside where order_id = any (array(select order_id from set_aside))
), changed as (
    update orderly.orders as o set
        status = 4,
        version = coalesce(lease.version, o.version) + 1,
        attempts = coalesce(lease.attempt, o.attempts),
        fence = coalesce(lease.fence, o.fence),
        node = coalesce(lease.node, o.node),
        handed_out = coalesce(lease.handed_out, o.handed_out),
        changed_at = now_or_later.at,
        processing_at = coalesce(lease.started_at, o.processing_at),
        finished_at = now_or_later.at,
        started_in = null,
        ended_in = null,
        history = case when held.full_history is null then o.history end || orderly.ending(o)
            || case when lease.started_in is not null then array[
                row(1, lease.started_at, lease.attempt, lease.node, lease.started_in, null, null)::orderly.event] end
            || array[row(7, now_or_later.at, coalesce(lease.attempt, o.attempts), null, drawn.batch, null, $5::text)::orderly.event]
    from held cross join drawn cross join moment left join lease using (order_id)
        cross join lateral (select greatest(moment.at, lease.started_at, held.latest) as at) as now_or_later
    where o.order_id = held.order_id
    returning o.*, null::timestamptz as due_at, null::timestamptz as held_at, null::text as hold_reason, held.status as earlier,
        held.runs
), deadline_gone as (
    -- A row that another session has locked stays until its time comes.
    delete from orderly.deadlines where order_id = any (array(
        select order_id from orderly.deadlines
        where order_id = any (array(select order_id from changed where deadline is not null)) for update skip locked))
), listed as (
    insert into orderly.cancelled (order_id, user_id) select order_id, user_id from changed
), unseen as (
    insert into orderly.unseen (user_id) select user_id from moment, changed where in_turn
), recorded as (
    insert into orderly.batches (batch, kind, at, order_ids, versions, attempts, details)
    select batch, 7, changed_at, array[order_id], array[version], array[attempts], case when $5 is not null then array[$5::text] end
    from drawn, changed
), counted as (
    update orderly.counters set
        pending = pending - (earlier = 0 and not runs)::int, processing = processing - runs::int,
        failed = failed - (earlier = 3)::int, cancelled = cancelled + 1,
        held = held - (select count(*) from set_aside where held_at is not null),
        scheduled = scheduled - (select count(*) from set_aside where held_at is null)
    from changed
    where slot = (select orderly.free_counter($2) where exists (select from changed))
)
