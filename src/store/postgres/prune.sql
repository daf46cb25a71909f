-- One message that removes orders that ended long ago, with all their events: one step of a walk up the primary key. Orders
-- that another transaction is changing are left for another round, so it waits for none. An order goes only when all its
-- events are numbered; otherwise the position after which the feed is complete would be unknown. :lock, :after,
-- :older_micros, :accept_micros, :orders_max, :events_max, :slot are replaced by numbers.
begin isolation level read committed;
set local statement_timeout = 5000;
set local lock_timeout = 2000;
-- Disabled plan types look expensive enough to trigger JIT compilation.
set local jit = off;
set local enable_seqscan = off;
set local enable_bitmapscan = off;
set local enable_hashjoin = off;
set local enable_mergejoin = off;
-- One node at a time: two that remove the last events of a batch would each leave the empty batch to the other. Locked in a
-- separate statement, so that the next one takes its view while the lock is held.
select set_config('orderly.prunes', pg_try_advisory_xact_lock(:lock)::text, true);
with moment as materialized (
    select clock_timestamp() - :older_micros * interval '1 microsecond' as ended_before
), page as materialized (
    select order_id, status, version, created_at, finished_at from orderly.orders
    where order_id > :after and current_setting('orderly.prunes') = 'true'
    order by order_id limit :orders_max
), young as materialized (
    -- An order that ended in time was created in time. From this id on, none was: ids follow the creation times, except
    -- among orders accepted at the same moment.
    select min(order_id) as order_id from page, moment
    where created_at >= ended_before + :accept_micros * interval '1 microsecond'
), ended as materialized (
    select page.order_id, version, sum(version) over (order by page.order_id) - version as events_before
    from page, moment, young
    where status > 1 and finished_at < ended_before and (young.order_id is null or page.order_id < young.order_id)
), chosen as materialized (
    -- An order's version is the number of its events.
    select order_id, version from ended where events_before < :events_max
), held as materialized (
    -- An order that changed since the page was read has another version. If the last event of an order is numbered, all its earlier
    -- ones are.
    select o.order_id, o.status, o.overdue, last_batch.first_position + array_position(last_batch.order_ids, o.order_id) - 1 as position
    from chosen cross join moment join orderly.orders as o on o.order_id = chosen.order_id
        cross join lateral (
            select b.first_position, b.order_ids from orderly.batches as b
            where b.batch = coalesce(o.ended_in, (o.history[cardinality(o.history)]).batch) offset 0) as last_batch
    where o.version = chosen.version and o.status > 1 and o.finished_at < moment.ended_before
        and last_batch.first_position is not null
    for update of o skip locked
), touched as materialized (
    select held.order_id, e.batch
    from held cross join lateral (
        select batch from orderly.order_events where order_events.order_id = held.order_id offset 0) as e
), emptied as materialized (
    -- Batches that would have no order left.
    select b.batch, b.order_ids
    from orderly.batches as b
    where b.batch = any (array(select distinct batch from touched)) and not exists (
        select from unnest(b.order_ids) as of_batch (order_id)
        where of_batch.order_id not in (select order_id from held)
            and exists (select from orderly.orders as o where o.order_id = of_batch.order_id offset 0))
), free as materialized (
    select emptied.*
    from emptied cross join lateral (
        select 1 as locked from orderly.batches as b where b.batch = emptied.batch for update skip locked) as free
), failed_free as materialized (
    select order_id from orderly.failed where order_id = any (array(select order_id from held)) for update skip locked
), cancelled_free as materialized (
    select order_id from orderly.cancelled where order_id = any (array(select order_id from held)) for update skip locked
), overdue_free as materialized (
    select order_id from orderly.overdue where order_id = any (array(select order_id from held)) for update skip locked
), stuck as materialized (
    select batch from emptied where batch not in (select batch from free)
), leaving as materialized (
    -- An order stays when another session has locked its row in the list of its status, or its batch.
    select * from held
    where order_id not in (select order_id from touched where batch in (select batch from stuck))
        and (status <> 3 or order_id in (select order_id from failed_free))
        and (status <> 4 or order_id in (select order_id from cancelled_free))
        and (not overdue or order_id in (select order_id from overdue_free))
), staying as materialized (
    select order_id from held where order_id not in (select order_id from leaving)
), gone as (
    delete from orderly.orders as o
    using moment
    where o.order_id = any (array(select order_id from leaving)) and o.status > 1 and o.finished_at < moment.ended_before
    returning o.order_id, o.status, o.processing_at, o.finished_at, o.user_id
), history_gone as (
    delete from orderly.history where order_id = any (array(select order_id from gone))
), failed_gone as (
    delete from orderly.failed where order_id = any (array(select order_id from gone))
), cancelled_gone as (
    delete from orderly.cancelled where order_id = any (array(select order_id from gone))
), overdue_gone as (
    delete from orderly.overdue where order_id = any (array(select order_id from gone))
), deadlines_gone as (
    -- Left behind where another session had locked them when the order ended.
    delete from orderly.deadlines where order_id = any (array(
        select order_id from orderly.deadlines where order_id = any (array(select order_id from gone)) for update skip locked))
), batches_gone as (
    -- Compared as arrays; otherwise the planner compares each order of each batch with each held order.
    delete from orderly.batches where batch = any (array(
        select batch from free where not order_ids && array(select order_id from staying)))
), risen as (
    update orderly.queue set complete_after = highest.position
    from (select max(position) as position from leaving) as highest
    where complete_after < highest.position
), freed as (
    -- Users whose failed orders blocked later ones.
    insert into orderly.unseen (user_id)
    select distinct gone.user_id from gone, orderly.queue as queue where queue.ordering = 2 and gone.status = 3
), counted as (
    update orderly.counters as c set
        completed = c.completed - change.completed,
        failed = c.failed - change.failed,
        cancelled = c.cancelled - change.cancelled,
        processing_micros = c.processing_micros - change.micros
    from (
        select count(*) filter (where status = 2) as completed,
            count(*) filter (where status = 3) as failed,
            count(*) filter (where status = 4) as cancelled,
            coalesce(sum((extract(epoch from finished_at - processing_at) * 1000000)::int8)
                filter (where status = 2), 0) as micros
        from gone) as change
    where c.slot = (select orderly.free_counter(:slot) where exists (select from gone)) and change.completed + change.failed + change.cancelled > 0
)
select (select count(*) from gone) as pruned,
    case
        when exists (select from ended where events_before >= :events_max) then (select max(order_id) from chosen)
        when (select order_id from young) is null and (select count(*) from page) = :orders_max
            then (select max(order_id) from page)
    end as next;
commit
