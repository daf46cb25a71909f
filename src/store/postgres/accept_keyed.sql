-- Stores a group of calls, some with keys, each with its orders and their events, in one statement.
-- Calls whose key is stored already are left out: they have no row in the answer.
-- $1-$6: the orders and the number of the call each belongs to; $7-$10: the keys and their calls; $11: counter row.
-- Where the orders of a user wait for each other, the next claim sees to the turns of all that changes (see turns.rs).
with moment as materialized (
    -- See accept.sql.
    select greatest(clock_timestamp(), (
            select created_at from orderly.orders order by order_id desc limit 1)) as at,
        pg_current_xact_id() as transaction,
        (select case when ordering > 0 then 2 end from orderly.queue)::int2 as turn
), numbered as materialized (
    select nextval('orderly.order_ids') as order_id, new.*
    from moment, unnest($1::int4[], $2::int8[], $3::int8[], $4::text[], $5::text[], $6::text[]) with ordinality
        as new (call, user_id, total_amount, item_ids, reference, metadata, place)
    where moment.transaction is not null
), calls as materialized (
    select call, array_agg(order_id order by place) as order_ids from numbered group by call
), kept as (
    -- In the order of the keys, so that two groups that share some never wait for each other.
    insert into orderly.idempotency_keys as stored (scope, key, fingerprint, order_ids, created_at)
    select asked.scope, asked.key, asked.fingerprint, calls.order_ids, moment.at
    from moment, unnest($7::int4[], $8::text[], $9::text[], $10::bytea[]) as asked (call, scope, key, fingerprint)
        join calls using (call)
    order by asked.scope collate "C", asked.key collate "C"
    -- A key past its retention may still be there and gives way.
    on conflict (scope, key) do update set
        fingerprint = excluded.fingerprint, order_ids = excluded.order_ids, created_at = excluded.created_at
        where stored.created_at <= excluded.created_at - interval '24 hours'
    returning order_ids[1] as first_order_id
), stored_calls as materialized (
    select calls.call, calls.order_ids
    from calls
        left join unnest($7::int4[]) as keyed (call) using (call)
        left join kept on kept.first_order_id = calls.order_ids[1]
    where keyed.call is null or kept.first_order_id is not null
), stored as (
    insert into orderly.orders (order_id, status, version, attempts, generation, crashes, token, created_at, changed_at,
        user_id, total_amount, item_ids, reference, metadata, turn)
    select order_id, 0, 1, 0, 0, 0, 0, moment.at, moment.at, user_id, total_amount, item_ids, reference, metadata,
        moment.turn
    from moment, numbered
    where numbered.call in (select call from stored_calls)
    returning order_id
), batch as (
    insert into orderly.batches (batch, events)
    select nextval('orderly.batch_ids'), count(*) from stored having count(*) > 0
    returning batch
), recorded as (
    insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt)
    select batch, row_number() over (order by order_id) - 1, order_id, 1, 0, 0, moment.at, 0
    from moment, batch, stored
), counted as (
    update orderly.counters set pending = pending + (select count(*) from stored) where slot = $11
)
select call, order_ids, moment.at from stored_calls, moment
