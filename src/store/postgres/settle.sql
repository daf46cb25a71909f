-- Ends attempts, each of its own lease and of no other: the token is checked by the statement that writes, so a worker
-- that lost its lease changes nothing and finds no row in the answer. A lease that ran out but was not given to another
-- still counts. $1-$9: one row per result, by rising order id, so that no two statements wait for each other's rows;
-- $10: counter row. Served by the primary key.
-- Where the orders of a user wait for each other, the next claim sees to the turns of all that changes (see turns.rs).
with moment as materialized (
    select clock_timestamp() as at,
        (select case when ordering > 0 then 2 end from orderly.queue)::int2 as turn
), result as materialized (
    select * from unnest($1::int8[], $2::int8[], $3::int8[], $4::int2[], $5::int2[], $6::bool[], $7::int8[], $8::text[],
            $9::text[])
        with ordinality as result (order_id, token, node, kind, status, given_back, due_in_micros, error, given, place)
), ended as (
    update orderly.orders as o set
        status = result.status,
        version = o.version + 1,
        attempts = o.attempts - result.given_back::int,
        lease_expires_at = null,
        changed_at = greatest(moment.at, o.changed_at),
        due_at = moment.at + result.due_in_micros * interval '1 microsecond',
        finished_at = case when result.status > 1 then greatest(moment.at, o.changed_at) end,
        -- A given-back attempt says nothing about the order, so what its last attempt said stays.
        last_error = case when result.given_back then o.last_error else result.error end,
        result = result.given,
        outside = false,
        turn = moment.turn
    from moment, result
    where o.order_id = result.order_id and o.token = result.token and o.status = 1
    returning o.order_id, o.version, o.attempts, o.status, o.changed_at, o.processing_at,
        result.place, result.kind, result.node, result.error
), batch as (
    insert into orderly.batches (batch, events)
    select nextval('orderly.batch_ids'), count(*) from ended having count(*) > 0
    returning batch
), recorded as (
    insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt, node, error)
    select batch, row_number() over (order by order_id) - 1, order_id, version, kind, status, changed_at, attempts,
        node, error
    from batch, ended
), counted as (
    update orderly.counters as c set
        pending = c.pending + change.pending,
        processing = c.processing - change.ended,
        completed = c.completed + change.completed,
        failed = c.failed + change.failed,
        processing_micros = c.processing_micros + change.micros
    from (
        select count(*) as ended,
            count(*) filter (where status = 0) as pending,
            count(*) filter (where status = 2) as completed,
            count(*) filter (where status = 3) as failed,
            coalesce(sum((extract(epoch from changed_at - processing_at) * 1000000)::int8)
                filter (where status = 2), 0) as micros
        from ended) as change
    where c.slot = $10 and change.ended > 0
)
select place, order_id, status from ended
