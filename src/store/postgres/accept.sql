-- Stores a group of calls without keys in one statement: see orderly.accept.
select order_ids, accepted_at from orderly.accept($1, $2, $3, $4, $5, $6)
