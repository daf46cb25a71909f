-- The leases that ran out, of orders behind $2, at most $1, by rising id; and whether the node that holds the lease is dead, which
-- $3 is not, since it asks; and which run of a server answers, as settings.sql has it. Walks the key of leases: a row for each order being processed, and dead entries while a session holds
-- an old snapshot.
select l.order_id, l.fence, l.node, l.outside,
    coalesce((select crashes from orderly.orders as o where o.order_id = l.order_id), 0),
    l.node <> $3 and not exists (
        select from orderly.nodes as n where n.node = l.node and n.expires_at >= (select clock_timestamp())),
    extract(epoch from pg_postmaster_start_time())::text || ' ' || (select oid from pg_database where datname = current_database())
from orderly.leases as l
where l.order_id > $2 and l.expires_at < (select clock_timestamp())
order by l.order_id
limit $1
