-- Picks the wanted orders that may start now, in the given order, and locks their rows for `start`: the alternative to
-- `choose` when the caller chose. `wanted` names each order once. The lines hold exactly the orders that may start, so an
-- order in neither is left out; of the second line, only orders that are due are picked, and at most one suspect.
--
-- Passes over orders that another session has locked (`passed`), and those in `stepped_around`, whose start the database
-- refused. Both lists have one element per picked order: its id in the list of its line, null in the other.
--
-- Served by the primary keys of the lines, id by id.
create function :pick(
    wanted bigint[], places bigint, takes_suspects boolean, stepped_around bigint[],
    out first_ids bigint[], out second_ids bigint[], out passed bigint[]
) language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off
as $pick$
begin
    with moment as materialized (
        select clock_timestamp() as at
    ), asked as materialized (
        select order_id, place
        from unnest(wanted) with ordinality as asked (order_id, place)
        where order_id <> all (stepped_around)
    ), first_line as materialized (
        select asked.*
        from asked cross join lateral (
            select from orderly.first_line as l where l.order_id = asked.order_id offset 0) as waits
    ), first_free as materialized (
        select first_line.*
        from first_line cross join lateral (
            select 1 as locked from orderly.first_line as l
            where l.order_id = first_line.order_id
            for update skip locked) as free
        limit places
    ), second_line as materialized (
        select asked.*, waits.suspect
        from moment, asked cross join lateral (
            select l.suspect, l.due_at from orderly.second_line as l where l.order_id = asked.order_id offset 0) as waits
        where waits.due_at <= moment.at and (takes_suspects or not waits.suspect)
    ), second_free as materialized (
        -- All of them are read: a suspect beyond the first takes no place.
        select second_line.*
        from second_line cross join lateral (
            select 1 as locked from orderly.second_line as l
            where l.order_id = second_line.order_id
            for update skip locked) as free
    ), picked as materialized (
        select order_id, place, false as second from first_free
        union all
        select order_id, place, true from second_free
        where not suspect or place = (select min(place) from second_free where suspect)
        order by place
        limit places
    )
    select array(select case when not second then order_id end from picked order by place),
        array(select case when second then order_id end from picked order by place),
        array(
            select order_id from first_line where order_id not in (select order_id from first_free)
            union all
            select order_id from second_line where order_id not in (select order_id from second_free))
    into first_ids, second_ids, passed;
end $pick$;
