-- Cancels order $1 when it is Pending, Processing or Failed; no row when it is not, is unknown, or is locked by another
-- session. $2: counter row. A running attempt's result finds no lease any more. Served by primary keys.
-- Where the orders of a user wait for each other, the next claim sees to their turns.
with moment as materialized (
    select clock_timestamp() as at, (select ordering > 0 from orderly.queue where id = 1) as in_turn
), found as materialized (
    select order_id, status, version - cardinality(orderly.ending(o)) as history_version,
        case when cardinality(history) > 60 then history end as full_history, greatest(changed_at, created_at) as latest
    from orderly.orders as o
    where order_id = $1 and status in (0, 3)
    for no key update skip locked
), lease as materialized (
    select l.* from found join orderly.leases as l on l.order_id = found.order_id and found.status = 0
    for update of l skip locked
), first_line as materialized (
    select l.order_id from found join orderly.first_line as l on l.order_id = found.order_id and found.status = 0
    for update of l skip locked
), second_line as materialized (
    select l.order_id from found join orderly.second_line as l on l.order_id = found.order_id and found.status = 0
    for update of l skip locked
), blocked as materialized (
    select b.order_id from found join orderly.blocked as b on b.order_id = found.order_id and found.status = 0
    for update of b skip locked
), failed as materialized (
    select f.order_id from found join orderly.failed as f on f.order_id = found.order_id and found.status = 3
    for update of f skip locked
), held as materialized (
    -- The order stands in one of these, unless its place is locked or newer than what this statement sees.
    select found.*, exists (select from lease) as runs from found
    where exists (select from lease) or exists (select from first_line) or exists (select from second_line)
        or exists (select from blocked) or exists (select from failed)
), drawn as materialized (
    select nextval('orderly.batch_ids') as batch from held
), lease_gone as (
    delete from orderly.leases where order_id in (select order_id from held)
), first_line_gone as (
    delete from orderly.first_line where order_id in (select order_id from held)
), second_line_gone as (
    delete from orderly.second_line where order_id in (select order_id from held)
), blocked_gone as (
    delete from orderly.blocked where order_id in (select order_id from held)
), failed_gone as (
    delete from orderly.failed where order_id in (select order_id from held)
), spilled as (
    insert into orderly.history (order_id, version, events)
    select order_id, history_version - cardinality(full_history) + 1, full_history from held where full_history is not null
), changed as (
    update orderly.orders as o set
        status = 4,
        version = o.version + 1 + held.runs::int,
        attempts = coalesce(lease.attempt, o.attempts),
        token = coalesce(lease.token, o.token),
        node = coalesce(lease.node, o.node),
        handed_out = coalesce(lease.handed_out, o.handed_out),
        changed_at = now_or_later.at,
        processing_at = coalesce(lease.started_at, o.processing_at),
        finished_at = now_or_later.at,
        started_in = null,
        ended_in = null,
        history = case when held.full_history is null then o.history end || orderly.ending(o)
            || case when held.runs then array[
                row(1, lease.started_at, lease.attempt, lease.node, lease.started_in, null, null)::orderly.event] end
            || array[row(7, now_or_later.at, coalesce(lease.attempt, o.attempts), null, drawn.batch, null, null)::orderly.event]
    from held cross join drawn cross join moment left join lease on true
        cross join lateral (select greatest(moment.at, lease.started_at, held.latest) as at) as now_or_later
    where o.order_id = held.order_id
    returning o.*, null::timestamptz as due_at, held.status as earlier, held.runs
), cancelled as (
    insert into orderly.cancelled (order_id, user_id) select order_id, user_id from changed
), unseen as (
    insert into orderly.unseen (user_id) select user_id from moment, changed where in_turn
), recorded as (
    insert into orderly.batches (batch, kind, at, order_ids, versions, attempts)
    select batch, 7, changed_at, array[order_id], array[version], array[attempts] from drawn, changed
), counted as (
    update orderly.counters set
        pending = pending - (earlier = 0 and not runs)::int, processing = processing - runs::int,
        failed = failed - (earlier = 3)::int, cancelled = cancelled + 1
    from changed
    where slot = (select orderly.free_counter($2) where exists (select from changed))
)
