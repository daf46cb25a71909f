-- Chooses the next orders to start, by rising id and by due time, and locks their rows for `start`. The lines hold exactly
-- the orders that may start. When both lines have work, orders of both start; a short line leaves its places to the other.
--
-- Passes over orders that another session has locked, and those in `stepped_around`, whose start the database refused.
-- Reads up to `spare` more rows than are wanted. No order at or below `above` can be in the first line any more (the lower
-- bound).
--
-- The plans read the heads of the lines' indexes, whatever the statistics say.
create function :choose(
    places bigint, takes_suspects boolean, second_first bigint, above bigint, spare bigint, stepped_around bigint[],
    out first_ids bigint[], out second_ids bigint[], out exhausted boolean, out passed_first bigint[],
    out passed_second bigint[]
) language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off
as $choose$
begin
    with moment as materialized (
        select clock_timestamp() as at
    ), first_line as materialized (
        select order_id from orderly.first_line
        where order_id > above
        order by order_id
        limit places + spare
    ), first_free as materialized (
        -- Locked one by one, no more than are wanted.
        select order_id
        from first_line cross join lateral (
            select 1 as locked from orderly.first_line as l
            where l.order_id = first_line.order_id and l.order_id <> all (stepped_around)
            for update skip locked) as free
        limit places
    ), second_line as materialized (
        -- Orders in backoff come after the range that is read.
        (select order_id, due_at, false as suspect from orderly.second_line
        where not suspect and due_at <= (select at from moment)
        order by due_at, order_id
        limit places + spare)
        union all
        (select order_id, due_at, true as suspect from orderly.second_line
        where suspect and due_at <= (select at from moment) and takes_suspects
        order by due_at, order_id
        limit least(places, 1) + spare)
    ), second_free as materialized (
        (select order_id, due_at, suspect
        from second_line cross join lateral (
            select 1 as locked from orderly.second_line as l
            where l.order_id = second_line.order_id and l.order_id <> all (stepped_around)
            for update skip locked) as free
        where not suspect
        limit places)
        union all
        (select order_id, due_at, suspect
        from second_line cross join lateral (
            select 1 as locked from orderly.second_line as l
            where l.order_id = second_line.order_id and l.order_id <> all (stepped_around)
            for update skip locked) as free
        where suspect
        limit least(places, 1))
    ), lines as materialized (
        select (select count(*) from first_free) as first, (select max(order_id) from first_free) as last,
            count(*) as second, count(*) filter (where suspect) as suspects
        from second_free
    ), first_passed as materialized (
        -- Orders that were read and passed over, by rising id.
        select order_id from first_line, lines
        where order_id not in (select order_id from first_free) and (lines.first < places or order_id < lines.last)
    ), second_passed as materialized (
        select order_id from second_line, lines
        where order_id not in (select order_id from second_free)
            and case when suspect then lines.suspects < least(places, 1) else lines.second - lines.suspects < places end
    ), share as materialized (
        select least(second, greatest((places + second_first) / 2, places - first)) as second from lines
    )
    -- The first line is exhausted when all of it was read and taken, except for orders that were passed over.
    select array(select order_id from first_free order by order_id limit places - share.second),
        array(select order_id from second_free order by due_at, order_id limit share.second),
        (select count(*) from first_line) < places + spare and lines.first < places and lines.first + share.second <= places,
        array(select order_id from first_passed), array(select order_id from second_passed)
    into first_ids, second_ids, exhausted, passed_first, passed_second
    from lines cross join share;
end $choose$;
