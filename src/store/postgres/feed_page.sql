-- The head of a page of the feed: what there is of it, by whose clock, and whether there is more without a place yet (served
-- by batches_unnumbered); with every event of `next`, which is feed.sql joined to it, or in one row without any. All of one
-- view. The one row of queue is told by its key: guessed to be many, they make the statement seem worth compiling, which
-- takes longer than all the rest.
select queue.feed_id, queue.complete_after, queue.last_position, clock_timestamp(),
    (select batch from orderly.batches where first_position is null order by batch limit 1) is not null,
    next.order_id, next.version, next.kind, next.at, next.attempt, next.node, next.error, next.position,
    next.user_id
from orderly.queue as queue
