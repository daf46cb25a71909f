-- All leases that nodes hold, whatever their time (?1 is not used), of orders behind ?3. Served by orders_processing.
select order_id, token, node, crashes, outside from orders
where order_id in (select order_id from orders indexed by orders_processing where status = 1)
    and status = 1 and not outside and ?1 is null and order_id > ?3
order by order_id
limit ?2
