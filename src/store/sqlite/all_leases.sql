-- All leases that nodes hold, whatever their time (?1 is not used). Served by orders_status.
select order_id, token, node, crashes, outside from orders indexed by orders_status
where status = 1 and not outside and ?1 is null
order by order_id
limit ?2
