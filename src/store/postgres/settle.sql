-- Ends attempts in one statement, each of its own lease alone: see orderly.settle.
select ended_place, ended_order_id, ended_status from orderly.settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
