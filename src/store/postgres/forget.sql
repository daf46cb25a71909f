-- Forgets nodes that died long ago and hold nothing any more, and up to $1 keys past their retention, the oldest first. Passes over
-- what another node forgets at this moment. Served by the key of nodes and by idempotency_keys_age, which the time bounds only as
-- a subquery's: what may change from row to row would be compared with every key there is.
with nodes_gone as (
    delete from orderly.nodes where node in (
        select n.node from orderly.nodes as n
        where n.expires_at < (select clock_timestamp()) - interval '1 hour'
            and not exists (select from orderly.leases as l where l.node = n.node)
        for update skip locked)
)
delete from orderly.idempotency_keys where (scope, key) in (
    select scope, key from orderly.idempotency_keys
    where created_at <= (select clock_timestamp() - interval '24 hours')
    order by created_at limit $1
    for update skip locked)
