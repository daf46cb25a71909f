-- One message that gives the next feed positions to the committed batches, in the order of their numbers. Batches that
-- commit later get later positions. One node numbers at a time; another that comes meanwhile finds nothing to do and reads
-- what there is. :waits (1: waits for the lock, 0: gives up when it is taken), :lock and :batches_max are replaced by
-- numbers. Returns the epoch, then whether the lock was taken, and then the number of numbered batches, unless it is 0.
begin isolation level read committed;
set local statement_timeout = 5000;
set local lock_timeout = 5000;
-- Disabled plan types look expensive enough to trigger JIT compilation.
set local jit = off;
set local enable_seqscan = off;
set local enable_hashjoin = off;
set local enable_mergejoin = off;
select :epoch_here();
-- Locked in a separate statement, so that the next one takes its view while the lock is held.
select set_config('orderly.numbers_feed', taken::text, true) as taken
from (
    select case when :waits = 1 then pg_advisory_xact_lock(:lock) is not null else pg_try_advisory_xact_lock(:lock) end as taken
) as trial;
with unnumbered as materialized (
    select batch, events, sum(events) over (order by batch) as events_so_far from (
        select batch, cardinality(order_ids) as events from orderly.batches
        where first_position is null and current_setting('orderly.numbers_feed') = 'true'
        order by batch limit :batches_max
    ) as next_batches
), placed as (
    update orderly.batches as b
    set first_position = queue.last_position + unnumbered.events_so_far - unnumbered.events + 1
    from unnumbered, orderly.queue as queue
    where b.batch = unnumbered.batch and b.first_position is null
    returning b.batch
)
update orderly.queue
set last_position = last_position + change.events
from (
    select coalesce(max(events_so_far), 0) as events, (select count(*) from placed) as batches from unnumbered
) as change
where change.batches > 0
returning change.batches;
commit
