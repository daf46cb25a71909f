-- What a claim and a result write: an index for each of the three lives of an order - it waits, is in processing, has ended -
-- instead of two over all, in which every order moved with every change.

drop index orders_status;
drop index orders_user;

-- The orders of a user that wait.
create index orders_user_pending on orders (user_id, order_id) where status = 0;
-- Those of them all that wait in the second line; with the first line these are all that wait.
create index orders_returned on orders (order_id) where status = 0 and due_at is not null;
-- In processing: as many as nodes have slots and workers outside have leases.
create index orders_processing on orders (user_id, order_id) where status = 1;
-- Ended. finished_at is set exactly then, and a claim does not change it.
create index orders_ended on orders (status, order_id) where finished_at is not null;
create index orders_user_ended on orders (user_id, status, order_id) where finished_at is not null;

-- Of a first start: the earlier orders of the first line that its claim passed over, because the database refused to start
-- them. An array of JSON.
alter table events add column passed_over text;

-- Users whose turn could not be passed on, because the database refused to change an order that waits. Claims try again.
create table turns_owed (user_id integer primary key) strict;
