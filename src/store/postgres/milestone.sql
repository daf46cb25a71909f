-- Adds a milestone with the name $7 to the orders that lock_orders.sql has locked, in any status. The event of a running attempt's
-- start moves into the history, so that the milestone follows it.
, changed as (
    update orderly.orders as o set
        version = coalesce(lease.version, o.version) + 1,
        milestone = $7,
        changed_at = now_or_later.at,
        started_in = null,
        ended_in = null,
        history = case when held.full_history is null then o.history end || orderly.ending(o)
            || case when lease.started_in is not null then array[
                row(1, lease.started_at, lease.attempt, lease.node, lease.started_in, null, null)::orderly.event] end
            || array[row(11, now_or_later.at, coalesce(lease.attempt, o.attempts), null, drawn.batch, null, now_or_later.detail)
                ::orderly.event]
    from held cross join drawn cross join moment left join lease using (order_id)
        cross join lateral (
            -- The kind of the event does not tell the status.
            select greatest(moment.at, lease.started_at, held.latest) as at,
                '{"status":' || case when held.runs then 1 else held.status end || ',' || substr($5, 2) as detail) as now_or_later
    where o.order_id = held.order_id
    returning o.order_id, o.version, o.changed_at, coalesce(lease.attempt, o.attempts) as attempt, now_or_later.detail
), lease_changed as (
    update orderly.leases as l set version = changed.version, started_in = null
    from changed
    where l.order_id = any (array(select order_id from lease)) and l.order_id = changed.order_id
), recorded as (
    insert into orderly.batches (batch, kind, at, order_ids, versions, attempts, details)
    select batch, 11, changed_at, array[order_id], array[version], array[attempt], array[detail] from drawn, changed
)
select order_id from changed
