-- Forgets up to $1 keys past their retention, the oldest first; those that another node forgets at this moment are left
-- to it. Served by idempotency_keys_age, which the time bounds only as a subquery's: what may change from row to row
-- would be compared with every key there is.
delete from orderly.idempotency_keys where (scope, key) in (
    select scope, key from orderly.idempotency_keys
    where created_at <= (select clock_timestamp() - interval '24 hours')
    order by created_at limit $1
    for update skip locked)
