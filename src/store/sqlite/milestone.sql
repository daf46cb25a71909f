-- Adds an event to order ?1 whose latest milestone then has the name ?2. Served by the primary key.
update orders set version = version + 1, milestone = ?2
where order_id = ?1
returning -- the columns of an order
