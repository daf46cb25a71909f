-- What results cost where very many orders are stored: the orders of a user that ended were one list for each user, and with
-- many users each result changed a page of its own of an index as large as the store.

drop index orders_user_ended;

-- Completed: nearly all that is ever stored. The orders of 2^18 consecutive ids together, by user within: what is written
-- now is written to the few pages of the latest of these spans, however many there are.
create index orders_user_completed on orders (order_id >> 18, user_id) where status = 2;
-- Failed and cancelled: few, and by user.
create index orders_user_unsuccessful on orders (user_id, status, order_id) where status > 2;
