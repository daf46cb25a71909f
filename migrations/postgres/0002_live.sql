-- The feed as others see it: which one it is, and from where on it is complete. A node that does not know these columns
-- works on beside one that does.

-- Drawn at random, and anew when the store is restored from a backup: a cursor of another feed, or of another life of this
-- one, is told by it.
alter table orderly.queue add column feed_id bigint not null default 0;
-- The highest place of an event that was taken out with its order; behind it the feed has no holes.
alter table orderly.queue add column oldest_position bigint not null default 0;

-- Of its 32 digits those that are random in all their bits, and no hash of it: a server may refuse one for its policy.
update orderly.queue set feed_id = ('x' || left(drawn.digits, 12) || right(drawn.digits, 4))::bit(64)::bigint
from (select replace(gen_random_uuid()::text, '-', '') as digits) as drawn;

-- Every batch is changed once, when it gets its place, and leaves a dead entry at the head of batches_unnumbered, which is
-- read with every page of the feed.
alter table orderly.batches set (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_index_cleanup = on
);
