-- Releases the orders that lock_orders.sql has locked, one at most. Before its `start_after` an order stays set aside. Where the
-- orders of a user wait for each other, the next claim assigns their turns.
, changed as (
    update orderly.orders as o set
        version = o.version + 1,
        changed_at = greatest(moment.at, held.latest),
        history = case when held.full_history is null then o.history end
            || array[row(10, greatest(moment.at, held.latest), o.attempts, null, drawn.batch, null, $5::text)::orderly.event]
    from moment, drawn, held, set_aside as aside
    where o.order_id = held.order_id and aside.order_id = held.order_id
    returning o.*, coalesce(o.start_after <= moment.at, true) as enters_line,
        case when coalesce(o.start_after <= moment.at, true) then aside.due_at else nullif(aside.due_at, o.created_at) end as due_at,
        null::timestamptz as held_at, null::text as hold_reason, aside.suspect
), scheduled_again as (
    update orderly.set_aside as s set held_at = null, hold_reason = null
    from changed
    where s.order_id = any (array(select order_id from set_aside)) and s.order_id = changed.order_id and not changed.enters_line
), set_aside_gone as (
    delete from orderly.set_aside where order_id = any (array(select order_id from changed where enters_line))
), waiting as (
    insert into orderly.second_line (order_id, due_at, suspect)
    select order_id, due_at, suspect from moment, changed where enters_line and not in_turn
), in_turn as (
    insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
    select order_id, user_id, due_at, due_at, suspect from moment, changed where enters_line and in_turn
), unseen as (
    insert into orderly.unseen (user_id) select distinct user_id from moment, changed where in_turn
), recorded as (
    insert into orderly.batches (batch, kind, at, order_ids, versions, attempts, details)
    select batch, 10, changed_at, array[order_id], array[version], array[attempts], case when $5 is not null then array[$5::text] end
    from drawn, changed
), counted as (
    update orderly.counters set
        held = held - 1,
        scheduled = scheduled + (select count(*) from changed where not enters_line)
    where slot = (select orderly.free_counter($2) where exists (select from changed))
)
