-- Assigns turns for the users with the `unseen_max` oldest changes, and moves orders between `blocked` and the lines. The
-- first open order of a user gets the turn when it is Pending and none of the user is Processing. With `failed_block`, a
-- Failed order counts as open; with `set_aside_block`, so does one that is set aside. Runs under the claim lock. Returns the number of changes it looked at, 0 when it could
-- process none of them.
--
-- Leaves these to a later claim, and their changes in `unseen`:
-- - changes that another transaction is making, or has made since this statement began;
-- - users whose turn would move from or to an order that another session has locked, or whose start the database refused.
create function :see_to_turns(unseen_max bigint, failed_block boolean, set_aside_block boolean, stepped_around bigint[]) returns bigint language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $turns$
declare
    looked_at bigint;
begin
    with unseen as materialized (
        select change, user_id from orderly.unseen order by change limit unseen_max for update skip locked
    ), users as materialized (
        select distinct user_id from unseen
    ), turn as materialized (
        -- The orders that had the turn. One that ended or went back to `blocked` is neither running nor in a line. `offset
        -- 0` makes the planner look them up one by one, where it could read the tables whole.
        select users.user_id, had.order_id, had.runs, had.waits
        from users cross join lateral (
            select t.order_id,
                exists (select from orderly.leases as l where l.order_id = t.order_id offset 0) as runs,
                exists (select from orderly.first_line as l where l.order_id = t.order_id offset 0)
                    or exists (select from orderly.second_line as l where l.order_id = t.order_id offset 0) as waits
            from orderly.turns as t where t.user_id = users.user_id offset 0) as had
    ), heads as materialized (
        -- Compared as rows, so that no other index provides the order.
        select users.user_id,
            exists (select from turn where turn.user_id = users.user_id and turn.runs) as runs,
            (select min(turn.order_id) from turn where turn.user_id = users.user_id and turn.waits) as waits,
            (select b.order_id from orderly.blocked as b
            where (b.user_id, b.order_id) >= (users.user_id, 0) and b.user_id <= users.user_id
            order by b.user_id, b.order_id limit 1) as blocked,
            case when failed_block then (
                select f.order_id from orderly.failed as f
                where (f.user_id, f.order_id) >= (users.user_id, 0) and f.user_id <= users.user_id
                order by f.user_id, f.order_id limit 1) end as failed,
            case when set_aside_block then (
                select s.order_id from orderly.set_aside as s
                where (s.user_id, s.order_id) >= (users.user_id, 0) and s.user_id <= users.user_id
                order by s.user_id, s.order_id limit 1) end as set_aside
        from users
    ), next as materialized (
        select user_id, waits, blocked,
            case when not runs and coalesce(least(failed, set_aside) > least(waits, blocked), true) then least(waits, blocked) end as order_id
        from heads
    ), loses as materialized (
        select user_id, waits as order_id from next where waits is distinct from order_id and waits is not null
    ), gets as materialized (
        select user_id, order_id from next where order_id = blocked
    ), first_free as materialized (
        select loses.*
        from loses cross join lateral (
            select 1 as locked from orderly.first_line as l
            where l.order_id = loses.order_id and l.order_id <> all (stepped_around)
            for update skip locked) as free
    ), second_free as materialized (
        select loses.*
        from loses cross join lateral (
            select 1 as locked from orderly.second_line as l
            where l.order_id = loses.order_id and l.order_id <> all (stepped_around)
            for update skip locked) as free
    ), blocked_free as materialized (
        select gets.*, free.due_at, free.suspect
        from gets cross join lateral (
            select b.due_at, b.suspect from orderly.blocked as b
            where b.order_id = gets.order_id and b.order_id <> all (stepped_around)
            for update skip locked) as free
    ), held_up as materialized (
        select user_id from loses
        where order_id not in (select order_id from first_free union all select order_id from second_free)
        union
        select user_id from gets where order_id not in (select order_id from blocked_free)
    ), first_left as (
        delete from orderly.first_line as l where l.order_id = any (array(
            select order_id from first_free where user_id not in (select user_id from held_up)))
        returning l.order_id
    ), second_left as (
        delete from orderly.second_line as l where l.order_id = any (array(
            select order_id from second_free where user_id not in (select user_id from held_up)))
        returning l.order_id, l.due_at, l.suspect
    ), blocked_left as (
        delete from orderly.blocked as b where b.order_id = any (array(
            select order_id from blocked_free where user_id not in (select user_id from held_up)))
        returning b.order_id, b.user_id, b.due_at, b.suspect
    ), to_first as (
        insert into orderly.first_line select order_id from blocked_left where due_at is null
    ), to_second as (
        insert into orderly.second_line select order_id, due_at, suspect from blocked_left where due_at is not null
    ), to_blocked as (
        insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
        select left_first.order_id, o.user_id, o.created_at, null, false
        from first_left as left_first cross join lateral (
            select user_id, created_at from orderly.orders where orders.order_id = left_first.order_id offset 0) as o
        union all
        select second_left.order_id, user_id, second_left.due_at, second_left.due_at, second_left.suspect
        from second_left join second_free using (order_id)
    ), turns_over as (
        -- An order has one user, so its id identifies the pair; `is true` makes the planner hash the list.
        delete from orderly.turns
        where user_id = any (array(
                select user_id from turn where not runs and user_id not in (select user_id from held_up)))
            and (order_id in (
                select order_id from turn
                where not runs and order_id not in (select order_id from next where order_id is not null))) is true
    ), turns_begun as (
        insert into orderly.turns (user_id, order_id) select user_id, order_id from blocked_left
        on conflict do nothing
    ), seen as (
        delete from orderly.unseen where change = any (array(select change from unseen))
    ), left_unseen as (
        -- After the others, once for each user, so that a user that is held up for long delays no other.
        insert into orderly.unseen (user_id) select user_id from held_up
    )
    select count(*) into looked_at from unseen
    where exists (select from users where user_id not in (select user_id from held_up));
    return looked_at;
end $turns$;
