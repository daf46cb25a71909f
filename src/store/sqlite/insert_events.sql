-- The events of a change that the orders with the ids from ?5 to ?6 have just made together, all of them: the position of
-- each is its id and ?1, what else differs is read from its row. `or rollback`, as for every statement here that changes
-- many rows: a constraint that does not hold fails the transaction in any case, and so no copies of pages are kept for
-- undoing the statement alone. Served by the primary key.
insert or rollback into events (position, order_id, version, kind, status, at, attempt, node)
select order_id + ?1, order_id, version, ?2, status, ?3, attempts, ?4 from orders
where order_id between ?5 and ?6
order by order_id
