-- Leases that ran out before ?1, the oldest order first. Served by orders_status: as many rows as orders are being
-- processed, which the slots of the nodes limit; an index of its own would cost every claim and every result more.
select order_id, token, node, crashes, outside from orders indexed by orders_status
where status = 1 and lease_expires_at < ?1
order by order_id
limit ?2
