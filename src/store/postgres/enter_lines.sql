-- Moves the scheduled orders $1 whose time has come to the second line. Orders that another session has locked stay. Where the
-- orders of a user wait for each other, the next claim assigns their turns. $2: counter row.
with moment as materialized (
    select clock_timestamp() as at, (select ordering > 0 from orderly.queue where id = 1) as in_turn
), due as materialized (
    select order_id, user_id, due_at, suspect from orderly.set_aside
    where order_id = any ($1::int8[]) and held_at is null and start_after <= (select at from moment)
    for update skip locked
), gone as (
    delete from orderly.set_aside where order_id = any (array(select order_id from due))
), waiting as (
    insert into orderly.second_line (order_id, due_at, suspect)
    select order_id, due_at, suspect from moment, due where not in_turn
), in_turn as (
    insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
    select order_id, user_id, due_at, due_at, suspect from moment, due where in_turn
), unseen as (
    insert into orderly.unseen (user_id) select distinct user_id from moment, due where in_turn
), counted as (
    update orderly.counters as c set scheduled = c.scheduled - change.entered
    from (select count(*) as entered from due) as change
    where c.slot = (select orderly.free_counter($2) where exists (select from due)) and change.entered > 0
)
select order_id from due
