-- Stores idempotency keys; $1-$5: one row per key. Rows of nested arrays must have one length, so the ids of a key come as
-- the text of their array.
insert into orderly.idempotency_keys (scope, key, fingerprint, order_ids, created_at)
select scope, key, fingerprint, order_ids::int8[], created_at
from unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::timestamptz[])
    as kept (scope, key, fingerprint, order_ids, created_at)
