-- The sessions that have locked rows of the orders $1. The xmax of a row is the transaction that last locked or changed it;
-- while it runs, it holds a lock on its own id. The last column distinguishes the transactions of a session. The server
-- shows the age of a transaction only to roles with rights over its session.
select distinct held.order_id, holder.pid, session.usename::text, session.application_name,
    extract(epoch from pg_catalog.clock_timestamp() - session.xact_start)::int8, holder.virtualtransaction
from unnest($1::int8[]) as asked (id)
cross join lateral (
    select order_id, xmax from orderly.orders where order_id = asked.id
    union all select order_id, xmax from orderly.leases where order_id = asked.id
    union all select order_id, xmax from orderly.first_line where order_id = asked.id
    union all select order_id, xmax from orderly.second_line where order_id = asked.id
    union all select order_id, xmax from orderly.blocked where order_id = asked.id
    union all select order_id, xmax from orderly.failed where order_id = asked.id
    union all select order_id, xmax from orderly.cancelled where order_id = asked.id
    offset 0) as held
join pg_locks as holder
    on holder.locktype = 'transactionid' and holder.granted and holder.transactionid = held.xmax
        and holder.pid <> pg_backend_pid()
left join pg_stat_activity as session on session.pid = holder.pid
order by holder.pid, held.order_id
