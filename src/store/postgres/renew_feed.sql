-- Draws another identity for the feed, as the schema did first, unless a node is alive.
update orderly.queue set feed_id = ('x' || left(drawn.digits, 12) || right(drawn.digits, 4))::bit(64)::bigint
from (select replace(gen_random_uuid()::text, '-', '') as digits) as drawn
where not exists (select from orderly.nodes where expires_at >= clock_timestamp())
