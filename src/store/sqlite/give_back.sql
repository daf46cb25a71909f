-- Leases that ran out before ?1, or where ?1 is null all that nodes hold, of orders behind ?3, by rising id; and whether the node
-- of each is dead, which ?4 is not, since it asks. Served by orders_processing: as many rows as orders are being processed, which
-- the slots of the nodes limit; every heartbeat would change an index by expiry.
select order_id, fence, node, outside, crashes,
    ?1 is null or node <> ?4 and not exists (
        select 1 from nodes where nodes.node = orders.node and nodes.expires_at >= ?1)
from orders
where order_id in (select order_id from orders indexed by orders_processing where status = 1)
    and status = 1 and case when ?1 is null then not outside else lease_expires_at < ?1 end and order_id > ?3
order by order_id
limit ?2
