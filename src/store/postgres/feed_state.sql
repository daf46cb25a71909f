-- Reads the bounds of the feed, the number of committed batches that are unnumbered, at most $1, and for how many
-- microseconds the oldest of them has waited. Served by batches_unnumbered.
select complete_after, last_position,
    (select count(*) from (
        select batch from orderly.batches where first_position is null order by batch limit $1) as waiting),
    (select (extract(epoch from clock_timestamp() - at) * 1000000)::int8 from orderly.batches
    where first_position is null order by batch limit 1)
from orderly.queue
