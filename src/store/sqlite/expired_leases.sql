-- Leases that ran out before ?1, of orders behind ?3, the oldest order first. Served by orders_processing: as many rows as orders are being
-- processed, which the slots of the nodes limit; an index by expiry would be changed by every heartbeat too.
select order_id, token, node, crashes, outside from orders
where order_id in (select order_id from orders indexed by orders_processing where status = 1)
    and status = 1 and lease_expires_at < ?1 and order_id > ?3
order by order_id
limit ?2
