-- Stores the amended request $9-$15 of the order that lock_orders.sql has locked. It leaves its line for the time of its new
-- `start_after`, or enters the second line if it waits for none any more. Where the orders of a user wait for each other, the next
-- claim assigns their turns.
, changed as (
    update orderly.orders as o set
        version = o.version + 1,
        item_ids = $9,
        lines = $10,
        total_amount = $11,
        reference = $12,
        metadata = $13,
        start_after = $14,
        deadline = $15,
        started_in = null,
        ended_in = null,
        changed_at = now_or_later.at,
        history = case when held.full_history is null then o.history end || orderly.ending(o)
            || array[row(12, now_or_later.at, o.attempts, null, drawn.batch, null, now_or_later.detail)::orderly.event]
    from held cross join drawn cross join moment cross join lateral (
        -- The kind of the event does not tell the status.
        select greatest(moment.at, held.latest) as at, '{"status":' || held.status || ',' || substr($5, 2) as detail) as now_or_later
    where o.order_id = held.order_id
    returning o.*, now_or_later.detail, o.status = 0 and coalesce($14 > (select at from moment), false) as waits_for_time
), deadline_gone as (
    delete from orderly.deadlines where order_id = any (array(
        select order_id from orderly.deadlines
        where order_id = any (array(select order_id from changed where $15::timestamptz is null)) for update skip locked))
), deadline_set as (
    insert into orderly.deadlines (order_id, deadline)
    select order_id, deadline from changed where status = 0 and deadline is not null and not overdue
    on conflict (order_id) do update set deadline = excluded.deadline
), moves as materialized (
    select changed.order_id, changed.user_id, changed.created_at, changed.crashes, changed.waits_for_time, aside.order_id is not null as was_aside,
        aside.held_at is not null as is_held, coalesce(second_line.due_at, blocked.due_at, aside.due_at, changed.created_at) as due_at
    from changed left join set_aside as aside using (order_id) left join second_line using (order_id)
        left join blocked using (order_id)
    where changed.status = 0
), first_line_gone as (
    delete from orderly.first_line where order_id = any (array(select order_id from moves where waits_for_time and not was_aside))
), second_line_gone as (
    delete from orderly.second_line where order_id = any (array(select order_id from moves where waits_for_time and not was_aside))
), blocked_gone as (
    delete from orderly.blocked where order_id = any (array(select order_id from moves where waits_for_time and not was_aside))
), newly_aside as (
    insert into orderly.set_aside (order_id, user_id, start_after, due_at, suspect)
    select order_id, user_id, $14, due_at, crashes >= 2 from moves where waits_for_time and not was_aside
), still_aside as (
    update orderly.set_aside as s set start_after = $14
    from moves
    where s.order_id = any (array(select order_id from set_aside)) and s.order_id = moves.order_id
        and (moves.is_held or moves.waits_for_time)
), aside_gone as (
    delete from orderly.set_aside
    where order_id = any (array(select order_id from moves where was_aside and not is_held and not waits_for_time))
), waiting as (
    insert into orderly.second_line (order_id, due_at, suspect)
    select order_id, due_at, crashes >= 2 from moment, moves
    where was_aside and not is_held and not waits_for_time and not in_turn
), in_turn as (
    insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
    select order_id, user_id, due_at, due_at, crashes >= 2 from moment, moves
    where was_aside and not is_held and not waits_for_time and in_turn
), unseen as (
    insert into orderly.unseen (user_id)
    select user_id from moment, moves where in_turn and not is_held and was_aside <> waits_for_time
), recorded as (
    insert into orderly.batches (batch, kind, at, order_ids, versions, attempts, details)
    select batch, 12, changed_at, array[order_id], array[version], array[attempts], array[detail] from drawn, changed
), counted as (
    update orderly.counters set scheduled = scheduled + change.number
    from (
        select coalesce(sum(waits_for_time::int - was_aside::int), 0)::int8 as number from moves where not is_held) as change
    where slot = (select orderly.free_counter($2) where exists (select from changed)) and change.number <> 0
)
select order_id from changed
