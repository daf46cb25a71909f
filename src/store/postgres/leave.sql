-- Takes node $1 off the list, and while orders are open says so ($2) to all that listen. Nodes that sleep are on no list, so
-- nobody tells them of anything else; this one may be the last that was awake.
with gone as (
    delete from orderly.nodes where node = $1
)
select pg_notify('orderly', $2)
from (select sum(pending + processing) as orders from orderly.counters) as open
where open.orders > 0
