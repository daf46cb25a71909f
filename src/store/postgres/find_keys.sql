-- The answers to these keys ($1 scopes, $2 keys) within their retention. They confirm what was stored before, so this
-- statement commits as well: see ClassConnection::read_confirmed. Served by the primary key.
with confirmed as materialized (
    select pg_logical_emit_message(true, 'orderly', 'confirmed')
)
select asked.place, stored.fingerprint, stored.order_ids, stored.created_at
from unnest($1::text[], $2::text[]) with ordinality as asked (scope, key, place)
    join orderly.idempotency_keys as stored on stored.scope = asked.scope and stored.key = asked.key
    cross join confirmed
where stored.created_at > clock_timestamp() - interval '24 hours'
