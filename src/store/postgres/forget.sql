-- Forgets nodes that died long ago and hold no lease, and up to $1 expired idempotency keys, the oldest first. Passes over
-- rows that another node is deleting. Served by the key of nodes and by idempotency_keys_age. The age is computed in a
-- subquery, because an expression that may change from row to row cannot bound an index scan.
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
