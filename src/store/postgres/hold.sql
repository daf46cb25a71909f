-- Sets aside the orders that lock_orders.sql has locked, one at most, for the reason $7. Where the orders of a user wait for each
-- other, the next claim assigns their turns.
, first_line_gone as (
    delete from orderly.first_line where order_id = any (array(select order_id from first_line))
), second_line_gone as (
    delete from orderly.second_line where order_id = any (array(select order_id from second_line))
), blocked_gone as (
    delete from orderly.blocked where order_id = any (array(select order_id from blocked))
), changed as (
    update orderly.orders as o set
        version = o.version + 1,
        changed_at = greatest(moment.at, held.latest),
        history = case when held.full_history is null then o.history end
            || array[row(9, greatest(moment.at, held.latest), o.attempts, null, drawn.batch, null, $5::text)::orderly.event]
    from moment, drawn, held
    where o.order_id = held.order_id
    returning o.*, null::timestamptz as due_at, o.changed_at as held_at, $7::text as hold_reason
), now_held as (
    update orderly.set_aside as s set held_at = changed.held_at, hold_reason = changed.hold_reason
    from changed
    where s.order_id = any (array(select order_id from set_aside)) and s.order_id = changed.order_id
), now_aside as (
    insert into orderly.set_aside (order_id, user_id, held_at, hold_reason, start_after, due_at, suspect)
    select order_id, user_id, held_at, hold_reason, start_after, coalesce(second_line.due_at, blocked.due_at, created_at),
        crashes >= 2
    from changed left join second_line using (order_id) left join blocked using (order_id)
    where order_id not in (select order_id from set_aside)
), unseen as (
    insert into orderly.unseen (user_id) select distinct user_id from moment, changed where in_turn
), recorded as (
    insert into orderly.batches (batch, kind, at, order_ids, versions, attempts, details)
    select batch, 9, changed_at, array[order_id], array[version], array[attempts], case when $5 is not null then array[$5::text] end
    from drawn, changed
), counted as (
    update orderly.counters set
        held = held + 1,
        scheduled = scheduled - (select count(*) from set_aside)
    where slot = (select orderly.free_counter($2) where exists (select from changed))
)
