-- Finds out which of these orders the database refuses to start, by whatever rule: starts each on its own, with its turn if
-- it waits for one, and rolls that back.
create function :refused_starts(
    asked bigint[], claiming_node bigint, lease_micros bigint, is_outside boolean, is_handed_out boolean
) returns table (refused_order_id bigint, code text, message text) language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off
as $refused$
declare
    first_ids bigint[];
    second_ids bigint[];
begin
    foreach refused_order_id in array asked loop
        begin
            with gets as (
                delete from orderly.blocked as b
                where b.order_id = refused_order_id and exists (
                    select from orderly.blocked as free where free.order_id = refused_order_id for update skip locked)
                returning b.due_at, b.suspect
            ), to_first as (
                insert into orderly.first_line select refused_order_id from gets where due_at is null
            )
            insert into orderly.second_line select refused_order_id, due_at, suspect from gets where due_at is not null;
            first_ids := array(
                select l.order_id from orderly.first_line as l where l.order_id = refused_order_id for update skip locked);
            second_ids := array(
                select l.order_id from orderly.second_line as l where l.order_id = refused_order_id for update skip locked);
            perform :start(first_ids, second_ids, 0, claiming_node, lease_micros, is_outside, is_handed_out, '{}', 0, 0);
            set constraints all immediate;
            raise sqlstate 'OT000';
        exception
            when sqlstate 'OT000' then
                null;
            when others or assert_failure then
                code := sqlstate;
                message := sqlerrm;
                return next;
        end;
    end loop;
end $refused$;
