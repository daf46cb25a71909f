-- The leases that ran out, of orders above $2, at most $1, by rising id. For each: whether the node that holds it is dead
-- ($3, which asks, is not), and the run of the answering server, as in settings.sql. Walks the key of leases: one row per
-- order being processed, and dead entries while a session holds an old snapshot.
select l.order_id, l.fence, l.node, l.outside,
    coalesce((select crashes from orderly.orders as o where o.order_id = l.order_id), 0),
    l.node <> $3 and not exists (
        select from orderly.nodes as n where n.node = l.node and n.expires_at >= (select clock_timestamp())),
    extract(epoch from pg_postmaster_start_time())::text || ' ' || (select oid from pg_database where datname = current_database())
from orderly.leases as l
where l.order_id > $2 and l.expires_at < (select clock_timestamp())
order by l.order_id
limit $1
