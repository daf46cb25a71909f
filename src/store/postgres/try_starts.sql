-- One message that finds out which orders the database refuses to start: those at the heads of the lines that a claim with
-- these numbers would read, or the wanted ones, and, where the orders of a user wait for each other, those that may get
-- their turn. Runs under the claim lock, so that no other claim passes over the orders tried here; everything is rolled
-- back. :time_ms, :lock, :lower_bound, :places, :spare, :node, :lease_micros, :outside, :handed_out, :unseen_max are
-- replaced by numbers, :stepped_around by an array of the orders known to be refused, which are not tried again, and
-- :wanted by an array or null.
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
    select order_id from orderly.first_line where order_id > :lower_bound order by order_id limit :places + :spare
), second_line as materialized (
    (select order_id from orderly.second_line
    where not suspect and due_at <= (select clock_timestamp())
    order by due_at, order_id
    limit :places + :spare)
    union all
    (select order_id from orderly.second_line
    where suspect and due_at <= (select clock_timestamp())
    order by due_at, order_id
    limit 1 + :spare)
), unseen as materialized (
    select user_id from orderly.unseen order by change limit :unseen_max
), turned as materialized (
    select b.order_id
    from (select distinct user_id from unseen) as users cross join lateral (
        select b.order_id from orderly.blocked as b
        where (b.user_id, b.order_id) >= (users.user_id, 0) and b.user_id <= users.user_id
        order by b.user_id, b.order_id limit 1) as b
), asked as (
    select order_id from first_line where :wanted is null
    union select order_id from second_line where :wanted is null
    union select order_id from unnest(:wanted) as wanted (order_id)
    union select order_id from turned
)
select refused_order_id, code, message
from :refused_starts(
    array(select order_id from asked where order_id <> all (:stepped_around)), :node, :lease_micros, :outside = 1, :handed_out = 1);
rollback
