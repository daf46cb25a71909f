-- Marks the open orders that lock_orders.sql has locked as overdue, whatever they wait for. The event of a running attempt's start
-- moves into the history, so that the new one follows it.
, changed as (
    update orderly.orders as o set
        version = coalesce(lease.version, o.version) + 1,
        overdue = true,
        changed_at = now_or_later.at,
        started_in = null,
        ended_in = null,
        history = case when held.full_history is null then o.history end || orderly.ending(o)
            || case when lease.started_in is not null then array[
                row(1, lease.started_at, lease.attempt, lease.node, lease.started_in, null, null)::orderly.event] end
            || array[row(13, now_or_later.at, coalesce(lease.attempt, o.attempts), null, drawn.batch, null, now_or_later.detail)
                ::orderly.event]
    from held cross join drawn cross join moment left join lease using (order_id)
        cross join lateral (
            -- The kind of the event does not tell the status.
            select greatest(moment.at, lease.started_at, held.latest) as at, '{"status":' || held.runs::int || '}' as detail)
        as now_or_later
    where o.order_id = held.order_id
    returning o.order_id, o.user_id, o.version, o.changed_at, coalesce(lease.attempt, o.attempts) as attempt, now_or_later.detail
), lease_changed as (
    update orderly.leases as l set version = changed.version, started_in = null
    from changed
    where l.order_id = any (array(select order_id from lease)) and l.order_id = changed.order_id
), fired as (
    delete from orderly.deadlines where order_id = any (array(select order_id from changed))
), listed as (
    insert into orderly.overdue (order_id, user_id) select order_id, user_id from changed
), recorded as (
    insert into orderly.batches (batch, kind, at, order_ids, versions, attempts, ats, details)
    select batch, 13, moment.at, array_agg(order_id order by order_id), array_agg(version order by order_id),
        array_agg(attempt order by order_id),
        case when max(changed_at) > moment.at then array_agg(changed_at order by order_id) end,
        array_agg(detail order by order_id)
    from moment, drawn, changed
    group by batch, moment.at
)
select order_id from changed
