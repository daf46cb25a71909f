-- The orders behind $2 whose leases ran out, at most $1.
select order_id from orderly.leases
where order_id > $2 and expires_at < (select clock_timestamp())
order by order_id
limit $1
