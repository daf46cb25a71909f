-- The orders behind $2 whose leases ran out, at most $1. Served by orders_status, as in give_back.sql.
select order_id from orderly.orders
where (status, order_id) > (1, $2) and status <= 1 and lease_expires_at < (select clock_timestamp())
order by status, order_id
limit $1
