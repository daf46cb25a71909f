-- Leases that expired before ?1 (or, where ?1 is null, all leases held by nodes) of orders after ?3, by rising id, and
-- whether the node of each is dead. Node ?4 counts as alive because it is the one that asks.
-- Served by orders_processing, which has one row per running attempt; the slots of the nodes limit that number. An index by
-- expiry would have to change with every heartbeat.
select order_id, fence, node, outside, crashes,
    ?1 is null or node <> ?4 and not exists (
        select 1 from nodes where nodes.node = orders.node and nodes.expires_at >= ?1)
from orders
where order_id in (select order_id from orders indexed by orders_processing where status = 1)
    and status = 1 and case when ?1 is null then not outside else lease_expires_at < ?1 end and order_id > ?3
order by order_id
limit ?2
