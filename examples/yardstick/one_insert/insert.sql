-- One order, committed by itself.
insert into bench.orders (user_id, item_ids, total_amount) values ($1, $2, $3) returning order_id
