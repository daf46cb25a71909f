-- Starts attempts at orders of both lines, in the given order: removes them from their lines and writes their leases. This
-- transaction has locked their rows. Null elements are ignored. second_after: the number of starts of the first line that
-- come before those of the second line; 0 when the two lists share their places. passed_over: the orders of the first line
-- that should have started earlier, and are locked or refused; 0 stands for all earlier orders. fence_floor: fences of the
-- epoch are above it.
--
-- started: thirteen numbers for each order: id, fence, version, attempt, generation, crashes, user, amount, the microseconds
-- of acceptance, start, start_after and deadline (the lowest number if there is none), and 1 if it is overdue. texts: codes, reference, metadata, last error, user's name, currency, lines and milestone of each order, as JSON; null when all of them
-- together have more than 24,000 bytes. The claim lock is held while this is sent. With the numbers and the passed-over
-- orders of the largest claim it is some 80 kB, which fits into socket buffers, so that a frozen reader does not keep the
-- lock.
create function :start(
    first_ids bigint[], second_ids bigint[], second_after bigint, claiming_node bigint, lease_micros bigint, is_outside boolean,
    is_handed_out boolean, passed_over bigint[], counter_slot bigint, fence_floor bigint, out started bigint[], out texts json
) language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $start$
begin
    with moment as materialized (
        select clock_timestamp() as at
    ), first_taken as (
        delete from orderly.first_line where order_id = any (first_ids) returning order_id
    ), second_taken as (
        delete from orderly.second_line where order_id = any (second_ids) returning order_id
    ), taken as materialized (
        select order_id, place from unnest(first_ids) with ordinality as first (order_id, place)
        -- `is true` makes the planner hash the list; a bare `in` becomes a join.
        where (order_id in (select order_id from first_taken)) is true
        union all
        select order_id, second_after + place from unnest(second_ids) with ordinality as second (order_id, place)
        where (order_id in (select order_id from second_taken)) is true
    ), subject as materialized (
        -- Read one by one, whatever the plan says of joins.
        select o.order_id, greatest(o.fence, fence_floor) + 1 as fence, o.version + 1 as version, o.attempts + 1 as attempt, taken.place,
            greatest(moment.at, o.changed_at, o.created_at) as at, o.generation, o.crashes, o.created_at, o.user_id,
            o.total_amount, o.item_ids, o.reference, o.metadata, o.last_error, o.user_name, o.currency, o.lines, o.start_after,
            o.deadline, o.overdue, o.milestone
        from moment cross join taken
            cross join lateral (select * from orderly.orders where orders.order_id = taken.order_id offset 0) as o
        order by taken.place
    ), drawn as materialized (
        select nextval('orderly.batch_ids') as batch from (select from subject limit 1) as any_subject
    ), leased as (
        insert into orderly.leases (
            order_id, fence, node, version, attempt, started_at, started_in, expires_at, outside, handed_out)
        select order_id, fence, claiming_node, version, attempt, subject.at, batch,
            moment.at + lease_micros * interval '1 microsecond', is_outside, is_handed_out
        from moment, drawn, subject
    ), believed as (
        -- An idle node announces a longer life than a lease; with orders in its hands it counts as alive only for one
        -- lease.
        update orderly.nodes as n set expires_at = moment.at + lease_micros * interval '1 microsecond'
        from moment
        where n.node = claiming_node and n.expires_at > moment.at + lease_micros * interval '1 microsecond'
            and exists (select from drawn)
            and n.node = (
                select mine.node from orderly.nodes as mine where mine.node = claiming_node for update skip locked)
    ), recorded as (
        insert into orderly.batches (batch, kind, at, order_ids, versions, attempts, node, ats, passed_over)
        -- Aggregated in the order of the rows above, which is that of the starts.
        select (select batch from drawn), 1, (select at from moment), array_agg(order_id), array_agg(version),
            array_agg(attempt), claiming_node,
            case when max(at) > (select at from moment) then array_agg(at) end, nullif(passed_over, '{}')
        from subject having count(*) > 0
    ), counted as (
        update orderly.counters set pending = pending - change.started, processing = processing + change.started
        from (select count(*) as started from subject) as change
        where slot = (select orderly.free_counter(counter_slot) where exists (select from drawn)) and change.started > 0
    )
    select array_agg(array[
            order_id, fence, version, attempt, generation, crashes, user_id, total_amount,
            (date_part('epoch', created_at) * 1000000)::int8, (date_part('epoch', at) * 1000000)::int8,
            coalesce((date_part('epoch', start_after) * 1000000)::int8, -9223372036854775808),
            coalesce((date_part('epoch', deadline) * 1000000)::int8, -9223372036854775808), overdue::int]),
        -- Long texts are neither read nor converted to JSON.
        case when sum(octet_length(item_ids) + coalesce(octet_length(reference), 0) + coalesce(octet_length(metadata), 0)
                + coalesce(octet_length(last_error), 0) + coalesce(octet_length(user_name), 0) + coalesce(octet_length(lines), 0)) <= 24000
            then to_json(array_agg(array[item_ids, reference, metadata, last_error, user_name, currency, lines, milestone])) end
    into started, texts from subject;
    if octet_length(texts::text) > 24000 then
        texts := null;
    end if;
end $start$;
