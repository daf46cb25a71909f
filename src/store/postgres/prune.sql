-- One message that takes out orders that ended long ago, with all their events: a step of a walk up the primary key. What
-- another transaction is changing is left for another round, so it waits for no order. Of the orders that ended in time,
-- those go whose events all have their places in the feed, or nobody could say from where on the feed is complete.
-- :lock, :after, :older_micros, :accept_micros, :orders_max, :events_max, :slot are numbers put into the text.
begin isolation level read committed;
set local statement_timeout = 5000;
set local lock_timeout = 2000;
-- Plans that are switched off cost so much that compiling them would seem worth it.
set local jit = off;
set local enable_seqscan = off;
set local enable_bitmapscan = off;
set local enable_hashjoin = off;
set local enable_mergejoin = off;
-- One node at a time: two that take out the last events of a batch would each leave the empty batch to the other. Tried in
-- a statement of its own: the next one's view is then taken with the lock held.
select set_config('orderly.prunes', pg_try_advisory_xact_lock(:lock)::text, true);
with moment as materialized (
    select clock_timestamp() - :older_micros * interval '1 microsecond' as ended_before
), page as materialized (
    select order_id, status, version, created_at, finished_at from orderly.orders
    where order_id > :after and current_setting('orderly.prunes') = 'true'
    order by order_id limit :orders_max
), young as materialized (
    -- What ended in time was created in time. From here on nothing was: ids follow the times of creation but for those
    -- of orders that were accepted at the same moment.
    select min(order_id) as order_id from page, moment
    where created_at >= ended_before + :accept_micros * interval '1 microsecond'
), ended as materialized (
    select page.order_id, sum(version) over (order by page.order_id) - version as events_before
    from page, moment, young
    where status > 1 and finished_at < ended_before and (young.order_id is null or page.order_id < young.order_id)
), chosen as materialized (
    -- An order's version is the number of its events.
    select order_id from ended where events_before < :events_max
), held as materialized (
    -- An order that was changed since the page was read is not final any more, or ended just now.
    select o.order_id from chosen, moment, orderly.orders as o
    where o.order_id = chosen.order_id and o.status > 1 and o.finished_at < moment.ended_before
        and not exists (
            select from orderly.events as e join orderly.batches as b on b.batch = e.batch
            where e.order_id = o.order_id and b.first_position is null)
    for update of o skip locked
), events_held as materialized (
    select e.order_id from held join orderly.events as e on e.order_id = held.order_id
    for update of e skip locked
), whole as materialized (
    select order_id from held
    where (select count(*) from events_held where events_held.order_id = held.order_id)
        = (select count(*) from orderly.events where events.order_id = held.order_id)
), gone as (
    delete from orderly.orders as o
    using whole, moment
    where o.order_id = whole.order_id and o.status > 1 and o.finished_at < moment.ended_before
    returning o.order_id, o.status, o.processing_at, o.finished_at, o.user_id
), events_gone as (
    delete from orderly.events as e using gone where e.order_id = gone.order_id
    returning e.batch, e.place
), touched as materialized (
    select events_gone.batch, max(b.first_position + events_gone.place) as position
    from events_gone join orderly.batches as b on b.batch = events_gone.batch
    group by events_gone.batch
), batches_gone as (
    -- Those in which nothing is left.
    delete from orderly.batches as b using touched
    where b.batch = touched.batch and not exists (
        select from orderly.events as e where e.batch = b.batch and e.order_id not in (select order_id from gone))
), risen as (
    update orderly.queue set oldest_position = highest.position
    from (select max(position) as position from touched) as highest
    where oldest_position < highest.position
), freed as (
    -- Failed orders that later ones of their user waited for.
    update orderly.orders as o set turn = 2
    from (select distinct user_id from gone where status = 3) as of_failed, orderly.queue as queue
    where queue.ordering = 2 and o.turn = 1 and o.order_id = (
        select first.order_id from orderly.orders as first
        where (first.user_id, first.status, first.order_id) >= (of_failed.user_id, 0, 0)
            and (first.user_id, first.status) < (of_failed.user_id, 1)
        order by first.user_id, first.status, first.order_id limit 1)
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
