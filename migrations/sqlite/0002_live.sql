-- The feed as others see it: which one it is, and from where on it is complete.

-- Drawn at random, and anew when the store is restored from a backup: a cursor of another feed, or of another life of this
-- one, is told by it.
alter table counters add column feed_id integer not null default 0;
-- The highest position of an event that was taken out with its order; behind it the feed has no holes.
alter table counters add column oldest_position integer not null default 0;

update counters set feed_id = random();
