-- Redrives the orders $1, by rising id, that are Failed or Cancelled. With $3 also makes those due that are Pending and back
-- off: they keep their attempts and their generation. The others, and those that another session has locked, have no row in
-- the answer. $2: counter row. Served by primary keys.
-- Where the orders of a user wait for each other, the next claim sees to their turns.
with moment as materialized (
    select clock_timestamp() as at, (select ordering > 0 from orderly.queue where id = 1) as in_turn
), found as materialized (
    select order_id, status, version - cardinality(orderly.ending(o)) as history_version,
        case when cardinality(history) > 60 then history end as full_history, greatest(changed_at, created_at) as latest
    from orderly.orders as o
    where order_id = any ($1::int8[]) and (status in (3, 4) or $3 and status = 0)
    order by order_id
    for no key update skip locked
), failed as materialized (
    select f.order_id from found join orderly.failed as f on f.order_id = found.order_id and found.status = 3
    for update of f skip locked
), cancelled as materialized (
    select c.order_id from found join orderly.cancelled as c on c.order_id = found.order_id and found.status = 4
    for update of c skip locked
), second_line as materialized (
    select l.order_id from moment, found join orderly.second_line as l on l.order_id = found.order_id and found.status = 0
    where l.due_at > moment.at
    for update of l skip locked
), blocked as materialized (
    select b.order_id from moment, found join orderly.blocked as b on b.order_id = found.order_id and found.status = 0
    where b.due_at > moment.at
    for update of b skip locked
), held as materialized (
    select *, status = 0 as backs_off from found
    where order_id in (
        select order_id from failed union all select order_id from cancelled
        union all select order_id from second_line union all select order_id from blocked)
), drawn as materialized (
    select nextval('orderly.batch_ids') as batch from (select from held limit 1) as any_held
), failed_gone as (
    delete from orderly.failed where order_id in (select order_id from failed)
), cancelled_gone as (
    delete from orderly.cancelled where order_id in (select order_id from cancelled)
), second_line_due as (
    update orderly.second_line as l set due_at = moment.at from moment, second_line as mine
    where l.order_id = mine.order_id
), blocked_due as (
    update orderly.blocked as b set due_at = moment.at, since = moment.at from moment, blocked as mine
    where b.order_id = mine.order_id
), spilled as (
    insert into orderly.history (order_id, version, events)
    select order_id, history_version - cardinality(full_history) + 1, full_history from held where full_history is not null
), changed as (
    update orderly.orders as o set
        status = 0,
        version = o.version + 1,
        attempts = case when backs_off then o.attempts else 0 end,
        crashes = case when backs_off then o.crashes else 0 end,
        generation = o.generation + (not backs_off)::int,
        finished_at = null,
        started_in = null,
        ended_in = null,
        changed_at = greatest(moment.at, held.latest),
        last_error = case when backs_off then o.last_error end,
        history = case when held.full_history is null then o.history end || orderly.ending(o)
            || array[row(8, greatest(moment.at, held.latest), case when backs_off then o.attempts else 0 end, null,
                drawn.batch, null, null)::orderly.event]
    from moment, drawn, held
    where o.order_id = held.order_id
    returning o.*, moment.at as due_at, held.status as earlier
), waiting as (
    insert into orderly.second_line (order_id, due_at, suspect)
    select order_id, due_at, false from moment, changed where earlier > 0 and not in_turn
), in_turn as (
    insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
    select order_id, user_id, due_at, due_at, false from moment, changed where earlier > 0 and in_turn
), unseen as (
    insert into orderly.unseen (user_id) select distinct user_id from moment, changed where earlier > 0 and in_turn
), recorded as (
    insert into orderly.batches (batch, kind, at, order_ids, versions, attempts, ats)
    select batch, 8, moment.at, array_agg(order_id order by order_id), array_agg(version order by order_id),
        array_agg(attempts order by order_id),
        case when max(changed_at) > moment.at then array_agg(changed_at order by order_id) end
    from moment, drawn, changed
    group by batch, moment.at
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
