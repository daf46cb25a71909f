-- Takes node $1 off the list and, while there are orders to process, sends the notification $2. Scheduled orders count if $3.
-- Sleeping nodes are on no list, so no other notification reaches them; this node may be the last one awake.
with gone as (
    -- A row that another session has locked stays; the node soon counts as dead.
    delete from orderly.nodes where node = (select node from orderly.nodes where node = $1 for update skip locked)
)
select pg_notify('orderly', $2)
from (select sum(pending + processing - held - case when $3 then 0 else scheduled end) as orders from orderly.counters) as open
where open.orders > 0
