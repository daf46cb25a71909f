-- The head of a statement that changes orders for an operator: locks the orders $1 whose stored status is one of $3, by rising id,
-- and the places where they stand; of open orders all with $4, otherwise those that back off. `held` has what can be changed: an
-- order is left out that stands in no such place, is unknown, or is locked by another session. $2: counter row. Served by primary
-- keys.
with moment as materialized (
    select clock_timestamp() as at, (select ordering > 0 from orderly.queue where id = 1) as in_turn
), found as materialized (
    select order_id, status, version - cardinality(orderly.ending(o)) as history_version,
        case when cardinality(history) > 60 then history end as full_history, greatest(changed_at, created_at) as latest
    from orderly.orders as o
    where order_id = any ($1::int8[]) and status = any ($3::int2[])
    order by order_id
    for no key update skip locked
), lease as materialized (
    select l.* from found join orderly.leases as l on l.order_id = found.order_id and found.status = 0
    where $4
    for update of l skip locked
), first_line as materialized (
    select l.order_id from found join orderly.first_line as l on l.order_id = found.order_id and found.status = 0
    where $4
    for update of l skip locked
), second_line as materialized (
    select l.order_id from moment, found join orderly.second_line as l on l.order_id = found.order_id and found.status = 0
    where $4 or l.due_at > moment.at
    for update of l skip locked
), blocked as materialized (
    select b.order_id from moment, found join orderly.blocked as b on b.order_id = found.order_id and found.status = 0
    where $4 or b.due_at > moment.at
    for update of b skip locked
), failed as materialized (
    select f.order_id from found join orderly.failed as f on f.order_id = found.order_id and found.status = 3
    for update of f skip locked
), cancelled as materialized (
    select c.order_id from found join orderly.cancelled as c on c.order_id = found.order_id and found.status = 4
    for update of c skip locked
), held as materialized (
    -- The order stands in one of these, unless its place is locked or newer than what this statement sees.
    select found.*, order_id in (select order_id from lease) as runs from found
    where order_id in (
        select order_id from lease union all select order_id from first_line union all select order_id from second_line
        union all select order_id from blocked union all select order_id from failed union all select order_id from cancelled)
), drawn as materialized (
    select nextval('orderly.batch_ids') as batch from (select from held limit 1) as any_held
), failed_gone as (
    delete from orderly.failed where order_id in (select order_id from failed)
), cancelled_gone as (
    delete from orderly.cancelled where order_id in (select order_id from cancelled)
), spilled as (
    insert into orderly.history (order_id, version, events)
    select order_id, history_version - cardinality(full_history) + 1, full_history from held where full_history is not null
)
