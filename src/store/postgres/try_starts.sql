-- One message that finds out which of the orders at the heads of the lines the database refuses to start: those that a claim
-- with these numbers looks at. Under the claims' lock, so that no other claim passes over what is tried here; all is rolled
-- back. :time_ms, :lock, :floor, :places, :spare, :node, :lease_micros, :outside, :handed_out,
-- :unseen_max are numbers put into the text, :by_change is what orders_unseen is ordered by,
-- :stepped_around an array of the orders that are known to be refused and not tried again.
begin isolation level read committed;
set local statement_timeout = :time_ms;
set local lock_timeout = :time_ms;
set local jit = off;
set local enable_seqscan = off;
set local enable_bitmapscan = off;
set local enable_sort = off;
set local enable_incremental_sort = off;
select pg_advisory_xact_lock(:lock);
with first_line as materialized (
    select order_id from orderly.orders
    where status = 0 and due_at is null and order_id + 0 > :floor
    order by order_id + 0
    limit :places + :spare
), second_line as materialized (
    (select order_id from orderly.orders
    where status = 0 and due_at is not null and crashes < 2 and due_at <= (select clock_timestamp())
    order by due_at, order_id
    limit :places + :spare)
    union all
    (select order_id from orderly.orders
    where status = 0 and due_at is not null and crashes >= 2 and due_at <= (select clock_timestamp())
    order by due_at, order_id
    limit 1 + :spare)
), changed as materialized (
    -- Those whose turn a claim sees to where the orders of a user wait for each other.
    select order_id, user_id from orderly.orders where turn = 2 order by :by_change limit :unseen_max
), turned as materialized (
    -- Those that may get it or lose it.
    select o.order_id
    from (select distinct user_id from changed) as users cross join lateral (
        (select order_id from orderly.orders as o
        where (o.user_id, o.status, o.order_id) >= (users.user_id, 0, 0) and (o.user_id, o.status) < (users.user_id, 1)
        order by o.user_id, o.status, o.order_id limit 1)
        union all
        (select order_id from orderly.orders as o
        where o.user_id = users.user_id and o.status = 0 and o.turn = 0 offset 0)) as o
), asked as (
    select order_id from first_line union select order_id from second_line
    union select order_id from changed union select order_id from turned
)
select refused_order_id, code, message
from orderly.refused_starts(
    array(select order_id from asked where order_id <> all (:stepped_around)), :node, :lease_micros, :outside, :handed_out);
rollback
