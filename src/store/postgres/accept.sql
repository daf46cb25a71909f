-- Stores a group of calls without keys, their orders with their events, in one statement. accept_keyed.sql is the same
-- for groups with keys; this one takes the server two thirds of the time.
-- $1-$5: the orders; $6: counter row.
-- Where the orders of a user wait for each other, the next claim sees to the turns of all that changes (see turns.rs).
with moment as materialized (
    -- The creation time never runs backwards. The transaction has its id before it draws order ids: whoever sees a
    -- later id in the sequence knows that it waits for a transaction with an earlier one (see floor.rs).
    select greatest(clock_timestamp(), (
            select created_at from orderly.orders order by order_id desc limit 1)) as at,
        pg_current_xact_id() as transaction,
        (select case when ordering > 0 then 2 end from orderly.queue)::int2 as turn
), numbered as materialized (
    select nextval('orderly.order_ids') as order_id, new.*
    from moment, unnest($1::int8[], $2::int8[], $3::text[], $4::text[], $5::text[]) with ordinality
        as new (user_id, total_amount, item_ids, reference, metadata, place)
    where moment.transaction is not null
), stored as (
    insert into orderly.orders (order_id, status, version, attempts, generation, crashes, token, created_at, changed_at,
        user_id, total_amount, item_ids, reference, metadata, turn)
    select order_id, 0, 1, 0, 0, 0, 0, moment.at, moment.at, user_id, total_amount, item_ids, reference, metadata,
        moment.turn
    from moment, numbered
), batch as (
    insert into orderly.batches (batch, events)
    select nextval('orderly.batch_ids'), count(*) from numbered
    returning batch
), recorded as (
    insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt)
    select batch, place - 1, order_id, 1, 0, 0, moment.at, 0
    from moment, batch, numbered
), counted as (
    update orderly.counters set pending = pending + (select count(*) from numbered) where slot = $6
)
select array(select order_id from numbered order by place), moment.at from moment
