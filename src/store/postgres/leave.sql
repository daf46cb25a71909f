-- Takes node $1 off the list, and while orders are open says so ($2) to all that listen. Nodes that sleep are on no list, so
-- nobody tells them of anything else; this one may be the last that was awake.
with gone as (
    -- One that another session has locked stays, and counts as dead before long.
    delete from orderly.nodes where node = (select node from orderly.nodes where node = $1 for update skip locked)
)
select pg_notify('orderly', $2)
from (select sum(pending + processing) as orders from orderly.counters) as open
where open.orders > 0
