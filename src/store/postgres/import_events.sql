-- Stores the next events of a feed as one batch that has its places already: $1 is the first. $2-$10: one row per event, in
-- the order of the feed.
with batch as (
    insert into orderly.batches (batch, events, first_position)
    values (nextval('orderly.batch_ids'), cardinality($2::int8[]), $1)
    returning batch
)
insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt, node, error, passed_over)
select batch, place - 1, order_id, version, kind, status, at, attempt, node, error, passed_over::int8[]
from batch, unnest($2::int8[], $3::int4[], $4::int2[], $5::int2[], $6::timestamptz[], $7::int4[], $8::int8[], $9::text[],
        $10::text[])
    with ordinality as event (order_id, version, kind, status, at, attempt, node, error, passed_over, place)
