-- Redrives the orders that lock_orders.sql has locked: failed and cancelled orders start afresh; orders in backoff and scheduled
-- ones become due and keep their attempts and generation. Where the orders of a user wait for each other, the next claim assigns
-- their turns.
, second_line_due as (
    update orderly.second_line set due_at = (select at from moment) where order_id = any (array(select order_id from second_line))
), blocked_due as (
    update orderly.blocked set due_at = moment.at, since = moment.at
    from moment where order_id = any (array(select order_id from blocked))
), failed_gone as (
    delete from orderly.failed where order_id = any (array(select order_id from failed))
), cancelled_gone as (
    delete from orderly.cancelled where order_id = any (array(select order_id from cancelled))
), set_aside_gone as (
    delete from orderly.set_aside where order_id = any (array(select order_id from set_aside))
), changed as (
    update orderly.orders as o set
        status = 0,
        version = o.version + 1,
        attempts = case when is_pending then o.attempts else 0 end,
        start_after = case when o.start_after > moment.at then null else o.start_after end,
        crashes = case when is_pending then o.crashes else 0 end,
        generation = o.generation + (not is_pending and not $6)::int,
        finished_at = null,
        started_in = null,
        ended_in = null,
        changed_at = greatest(moment.at, held.latest),
        last_error = case when is_pending then o.last_error end,
        history = case when held.full_history is null then o.history end || orderly.ending(o)
            || array[row(8, greatest(moment.at, held.latest), case when is_pending then o.attempts else 0 end, null,
                drawn.batch, null, $5::text)::orderly.event]
    from moment, drawn, (select *, status = 0 as is_pending, order_id in (select order_id from set_aside) as is_scheduled from held) as held
    where o.order_id = held.order_id
    returning o.*, moment.at as due_at, null::timestamptz as held_at, null::text as hold_reason, held.status as earlier,
        held.is_scheduled
), timed as (
    insert into orderly.deadlines (order_id, deadline)
    select order_id, deadline from changed where earlier > 0 and deadline is not null and not overdue
    on conflict (order_id) do update set deadline = excluded.deadline
), waiting as (
    insert into orderly.second_line (order_id, due_at, suspect)
    select order_id, due_at, crashes >= 2 from moment, changed where (earlier > 0 or is_scheduled) and not in_turn
), in_turn as (
    insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
    select order_id, user_id, due_at, due_at, crashes >= 2 from moment, changed where (earlier > 0 or is_scheduled) and in_turn
), unseen as (
    insert into orderly.unseen (user_id) select distinct user_id from moment, changed where (earlier > 0 or is_scheduled) and in_turn
), recorded as (
    insert into orderly.batches (batch, kind, at, order_ids, versions, attempts, ats, details)
    select batch, 8, moment.at, array_agg(order_id order by order_id), array_agg(version order by order_id),
        array_agg(attempts order by order_id),
        case when max(changed_at) > moment.at then array_agg(changed_at order by order_id) end,
        case when $5 is not null then array_agg($5::text) end
    from moment, drawn, changed
    group by batch, moment.at
), counted as (
    update orderly.counters as c set
        pending = c.pending + change.failed + change.cancelled,
        failed = c.failed - change.failed,
        cancelled = c.cancelled - change.cancelled,
        scheduled = c.scheduled - change.scheduled
    from (
        select count(*) filter (where earlier = 3) as failed, count(*) filter (where earlier = 4) as cancelled,
            count(*) filter (where is_scheduled) as scheduled
        from changed) as change
    where c.slot = (select orderly.free_counter($2) where exists (select from changed)) and change.failed + change.cancelled + change.scheduled > 0
)
