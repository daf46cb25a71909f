-- The head of a statement that changes orders. Locks the orders $1 whose stored status is one of $3, by rising id, and their rows
-- in the lines and lists. Of the open orders, $4 chooses: 0 those that wait for a time, in backoff or scheduled; 1 all; 2 those
-- that wait and are not held; 3 those that are held; 4 those that wait, held or not; 5 all whose deadline has passed. `held` has
-- the orders that can be changed: an order is left out that is in no such row, is unknown, or is locked by another session.
-- $2: counter row. $5: the detail of the events, or null; $6: a redrive keeps the idempotency key; $7: the reason of a hold, or
-- the name of a milestone; $8: the version that an order must have, or null. Served by primary keys, looked up from lists,
-- because a join may scan a whole table that the statistics take for empty.
with moment as materialized (
    select clock_timestamp() as at, (select ordering > 0 from orderly.queue where id = 1) as in_turn
), found as materialized (
    select order_id, status, version - cardinality(orderly.ending(o)) as history_version,
        case when cardinality(history) > 60 then history end as full_history, greatest(changed_at, created_at) as latest
    from orderly.orders as o
    where order_id = any ($1::int8[]) and status = any ($3::int2[]) and coalesce(version = $8::int4, true)
        and ($4 <> 5 or deadline <= (select at from moment) and not overdue)
    order by order_id
    for no key update skip locked
), lease as materialized (
    select * from orderly.leases
    where $4 in (1, 5) and order_id = any (array(select order_id from found where status = 0))
    for update skip locked
), first_line as materialized (
    select order_id from orderly.first_line
    where $4 in (1, 2, 4, 5) and order_id = any (array(select order_id from found where status = 0))
    for update skip locked
), second_line as materialized (
    select order_id, due_at, suspect from orderly.second_line
    where ($4 in (1, 2, 4, 5) or $4 = 0 and due_at > (select at from moment)) and order_id = any (array(select order_id from found where status = 0))
    for update skip locked
), blocked as materialized (
    select order_id, due_at, suspect from orderly.blocked
    where ($4 in (1, 2, 4, 5) or $4 = 0 and due_at > (select at from moment))
        and order_id = any (array(select order_id from found where status = 0))
    for update skip locked
), set_aside as materialized (
    select * from orderly.set_aside
    where case when $4 in (1, 4, 5) then true when $4 = 3 then held_at is not null else held_at is null end
        and order_id = any (array(select order_id from found where status = 0))
    for update skip locked
), failed as materialized (
    select order_id from orderly.failed where order_id = any (array(select order_id from found where status = 3))
    for update skip locked
), cancelled as materialized (
    select order_id from orderly.cancelled where order_id = any (array(select order_id from found where status = 4))
    for update skip locked
), late as materialized (
    select order_id from orderly.deadlines where $4 = 5 and order_id = any (array(select order_id from found))
    for update skip locked
), held as materialized (
    -- The order is in one of these, unless its row is locked or newer than the view of this statement.
    select found.*, order_id in (select order_id from lease) as runs from found
    where order_id in (
        select order_id from lease union all select order_id from first_line union all select order_id from second_line
        union all select order_id from blocked union all select order_id from set_aside union all select order_id from failed
        union all select order_id from cancelled union all select order_id from found where status = 2)
        and ($4 <> 5 or order_id in (select order_id from late))
), drawn as materialized (
    select nextval('orderly.batch_ids') as batch from (select from held limit 1) as any_held
), spilled as (
    insert into orderly.history (order_id, version, events)
    select order_id, history_version - cardinality(full_history) + 1, full_history from held where full_history is not null
)
