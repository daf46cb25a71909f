-- Stores a group of calls, some with keys, in one statement: see orderly.accept_keyed.
select stored_call, stored_order_ids, accepted_at from orderly.accept_keyed($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
