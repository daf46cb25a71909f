-- Ends attempts, each by its own lease only: the writing statement checks the fence, so a worker that lost its lease
-- changes nothing and finds no row in the answer. An expired lease that was not given to another node still counts. A row
-- that another session has locked is left alone: its row in the answer has no status. One element per result, by rising
-- order id. Where the orders of a user wait for each other, the next claim assigns their turns.
--
-- nodes: the node that brings the result; null for an external worker, whose result counts if the order was handed out.
-- given_backs: the attempt does not count, and last_error keeps its value unless new_last_errors has one. crasheds: the
-- lease was lost to a dead node.
create function :settle(
    order_ids bigint[], fences bigint[], nodes bigint[], kinds smallint[], statuses smallint[], given_backs boolean[],
    due_ins_micros bigint[], errors text[], new_last_errors text[], results text[], crasheds boolean[], counter_slot smallint
) returns table (ended_place bigint, ended_order_id bigint, ended_status smallint)
language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set enable_bitmapscan = off set lock_timeout = 3000
as $settle$
declare
    ended_at timestamptz;
    is_in_turn boolean;
    places bigint[];
    ids bigint[];
    ended_statuses smallint[];
    users bigint[];
    their_crashes integer[];
    dues_micros bigint[];
    -- The orders with a deadline that are final now.
    timed bigint[];
begin
    with moment as materialized (
        select clock_timestamp() as at, (select ordering > 0 from orderly.queue where id = 1) as in_turn
    ), result as materialized (
        select * from unnest(order_ids, fences, nodes, kinds, statuses, given_backs, due_ins_micros, errors, new_last_errors,
                results, crasheds) with ordinality
            as result (order_id, fence, node, kind, status, given_back, due_in_micros, error, new_last_error, given, crashed,
                place)
    ), held as materialized (
        -- Driven by the results, as in start. A cancel locks the order before its lease; neither waits for the other, since
        -- both skip locked rows.
        select result.*, lease.*, free.*, greatest(moment.at, lease.started_at, free.latest) as at,
            -- The columns of the order represent the start and the end, unless the start is in the history already. An end for
            -- another node than the one that claimed, which would be a bug, is kept in the history unchanged.
            result.status > 1 and lease.bringer = lease.claimer and lease.started_in is not null as in_columns
        from moment, result
            cross join lateral (
                select l.node as claimer, coalesce(result.node, l.node) as bringer, l.attempt, l.started_at, l.started_in,
                    l.version as lease_version, l.handed_out
                from orderly.leases as l
                where l.order_id = result.order_id and l.fence = result.fence and (result.node is not null or l.handed_out)
                for update skip locked) as lease
            cross join lateral (
                -- The history in the row, if the row has no room for more events.
                select case when cardinality(o.history) > 60 then o.history end as full_history, o.version as ended_version,
                    o.changed_at as latest
                from orderly.orders as o where o.order_id = result.order_id
                for no key update skip locked) as free
    ), drawn as materialized (
        select kind, nextval('orderly.batch_ids') as batch from (select distinct kind from held) as kinds
    ), freed as (
        delete from orderly.leases where order_id = any (array(select order_id from held))
    ), spilled as (
        insert into orderly.history (order_id, version, events)
        select order_id, ended_version - cardinality(full_history) + 1, full_history from held where full_history is not null
    ), ended as (
        update orderly.orders as o set
            status = held.status,
            version = held.lease_version + 1,
            attempts = held.attempt - held.given_back::int,
            crashes = o.crashes + coalesce(held.crashed, false)::int,
            fence = held.fence,
            node = held.claimer,
            handed_out = held.handed_out,
            changed_at = held.at,
            processing_at = held.started_at,
            finished_at = case when held.status > 1 then held.at end,
            started_in = case when held.in_columns then held.started_in end,
            ended_in = case when held.in_columns then drawn.batch end,
            last_error = case
                when held.given_back then coalesce(held.new_last_error, o.last_error) else held.new_last_error end,
            result = held.given,
            history = case
                when held.in_columns and held.full_history is null then o.history
                when held.in_columns then null
                else case when held.full_history is null then o.history end
                    || case when held.started_in is not null then array[
                        row(1, held.started_at, held.attempt, held.claimer, held.started_in, null, null)::orderly.event] end
                    || array[
                    row(held.kind, held.at, held.attempt - held.given_back::int, held.bringer, drawn.batch, held.error, null)
                        ::orderly.event] end
        from held join drawn using (kind)
        where o.order_id = held.order_id
        returning o.order_id, o.user_id, o.version, o.attempts, o.status, o.crashes, o.changed_at, o.processing_at,
            held.status > 1 and o.deadline is not null as is_timed, held.place, held.kind, held.bringer as node, held.error, held.due_in_micros, drawn.batch
    ), recorded as (
        insert into orderly.batches (batch, kind, at, order_ids, versions, attempts, nodes, ats, errors)
        select batch, kind, moment.at, array_agg(order_id), array_agg(version), array_agg(attempts), array_agg(node),
            case when max(changed_at) > moment.at then array_agg(changed_at) end,
            case when count(error) > 0 then array_agg(error) end
        from moment, ended
        group by batch, kind, moment.at
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
                coalesce(sum((date_part('epoch', changed_at - processing_at) * 1000000)::int8)
                    filter (where status = 2), 0) as micros
            from ended) as change
        where c.slot = (select orderly.free_counter(counter_slot) where exists (select from ended)) and change.ended > 0
    )
    select (select at from moment), (select in_turn from moment), array_agg(place), array_agg(order_id), array_agg(status),
        array_agg(user_id), array_agg(crashes), array_agg(due_in_micros), array_agg(order_id) filter (where is_timed)
    into ended_at, is_in_turn, places, ids, ended_statuses, users, their_crashes, dues_micros, timed
    from ended;
    -- A separate statement for what most orders do not need.
    if is_in_turn or 2 <> any (ended_statuses) then
        with ended as materialized (
            select *, ended_at + due_in_micros * interval '1 microsecond' as due_at, crashes >= 2 as suspect
            from unnest(ids, ended_statuses, users, their_crashes, dues_micros)
                as ended (order_id, status, user_id, crashes, due_in_micros)
        ), waiting as (
            insert into orderly.second_line (order_id, due_at, suspect)
            select order_id, due_at, suspect from ended where status = 0 and not is_in_turn
        ), in_turn as (
            insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
            select order_id, user_id, due_at, due_at, suspect from ended where status = 0 and is_in_turn
        ), unseen as (
            insert into orderly.unseen (user_id) select distinct user_id from ended where is_in_turn
        )
        insert into orderly.failed (order_id, user_id) select order_id, user_id from ended where status = 3;
    end if;
    if timed is not null then
        -- A row that another session has locked stays until its time comes.
        delete from orderly.deadlines where order_id = any (array(
            select order_id from orderly.deadlines where order_id = any (timed) for update skip locked));
    end if;
    return query select * from unnest(places, ids, ended_statuses);
    if places is null or cardinality(places) < cardinality(order_ids) then
        -- Results whose order another session has locked get no status, and are to be tried again.
        return query
        select result.place, result.order_id, null::smallint
        from unnest(order_ids, fences, nodes) with ordinality as result (order_id, fence, node, place)
        where result.place <> all (coalesce(places, '{}')) and exists (
            select from orderly.leases as l
            where l.order_id = result.order_id and l.fence = result.fence and (result.node is not null or l.handed_out)
            offset 0);
    end if;
end $settle$;
