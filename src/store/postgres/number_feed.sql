-- One message that gives the next places in the feed to the batches that are committed by now, in the order of their
-- numbers; what commits later gets later places. One node at a time: another that comes meanwhile finds nothing to do,
-- and reads on with what there is. :waits (1: waits for the lock, 0: leaves where another has it), :lock and :batches_max are
-- numbers put into the text. Answers with the epoch, then with whether the lock was taken, and then with how many batches got their
-- places, unless there were none.
begin isolation level read committed;
set local statement_timeout = 5000;
set local lock_timeout = 5000;
-- Plans that are switched off cost so much that compiling them would seem worth it.
set local jit = off;
set local enable_seqscan = off;
set local enable_hashjoin = off;
set local enable_mergejoin = off;
select :epoch_here();
-- Tried in a statement of its own: the next one's view is then taken with the lock held.
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
