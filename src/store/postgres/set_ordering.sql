-- One message that sets the ordering of the store, by which the orders of a user wait for each other or not, unless another
-- live node has another setting. :ordering is its code. Writers wait, so that everything stored later follows it and no
-- waiting order is forgotten. Reads all waiting orders. :lock and :node are replaced by numbers.
begin isolation level read committed;
set local statement_timeout = 600000;
set local lock_timeout = 5000;
set local idle_in_transaction_session_timeout = 5000;
select pg_advisory_xact_lock(:lock);
-- All claims wait for the lock that is held here, so a lock of another session is not awaited for long.
set local lock_timeout = 1000;
lock table orderly.orders, orderly.first_line, orderly.second_line, orderly.blocked in share row exclusive mode;
update orderly.queue set
    ordering = :ordering,
    ordering_from = (select case when is_called then last_value else 0 end from orderly.order_ids)
where ordering <> :ordering
    and not exists (
        select from orderly.nodes
        where node <> :node and expires_at >= clock_timestamp() and nodes.ordering <> :ordering);
-- Whatever the previous ordering, waiting orders go to `blocked`, and from there to their line when nothing blocks them.
with of_first as (
    delete from orderly.first_line where exists (select from orderly.queue where ordering = :ordering) returning order_id
), of_second as (
    delete from orderly.second_line where exists (select from orderly.queue where ordering = :ordering)
    returning order_id, due_at, suspect
)
insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
select o.order_id, o.user_id, coalesce(w.due_at, o.created_at), w.due_at, w.suspect
from (select order_id, null::timestamptz as due_at, false as suspect from of_first union all select * from of_second) as w
    join orderly.orders as o using (order_id);
delete from orderly.turns where exists (select from orderly.queue where ordering = :ordering);
delete from orderly.unseen where exists (select from orderly.queue where ordering = :ordering);
insert into orderly.turns (user_id, order_id)
select o.user_id, o.order_id from orderly.leases join orderly.orders as o using (order_id)
where :ordering > 0 and exists (select from orderly.queue where ordering = :ordering);
insert into orderly.unseen (user_id)
select user_id from orderly.blocked
where :ordering > 0 and exists (select from orderly.queue where ordering = :ordering)
group by user_id order by min(order_id);
with of_blocked as (
    delete from orderly.blocked where :ordering = 0 and exists (select from orderly.queue where ordering = 0)
    returning order_id, due_at, suspect
), to_first as (
    insert into orderly.first_line select order_id from of_blocked where due_at is null
)
insert into orderly.second_line select order_id, due_at, suspect from of_blocked where due_at is not null;
select ordering as ordering from orderly.queue;
commit
