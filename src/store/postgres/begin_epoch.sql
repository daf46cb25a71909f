-- Begins an epoch when the newest one belongs to another server or timeline; with `restored` in any case, unless a node is
-- alive. Order ids and batch numbers continue far above all that were given out and lost. `ids_left_out` is random, so that
-- epochs that begin at the same point in two lives of the store differ. `begun` is null when there was nothing to do.
-- `stored_until` is the time of the last numbered event.
create function :begin_epoch(
    epoch_lock bigint, ids_left_out bigint, restored boolean, out begun bigint, out first_order_id bigint,
    out after_position bigint, out stored_until timestamptz, out was text, out now_is text
) language plpgsql
set lock_timeout = 3000
as $begin$
declare
    here record;
    newest record;
begin
    perform pg_advisory_xact_lock(epoch_lock);
    -- This statement has its own view: another node may have been first.
    select * into here from orderly.server_life();
    select * into newest from orderly.epochs as e order by e.epoch desc limit 1;
    if restored then
        if exists (select from orderly.nodes where expires_at >= clock_timestamp()) then
            return;
        end if;
    elsif (newest.system_identifier, newest.timeline) is not distinct from (here.system_identifier, here.timeline) then
        return;
    end if;
    first_order_id := (select last_value from orderly.order_ids) + ids_left_out + 1;
    after_position := (select last_position from orderly.queue where id = 1);
    stored_until := (
        select at from orderly.batches where first_position is not null order by first_position desc limit 1);
    begun := orderly.next_epoch(newest.epoch);
    was := format('server %s, timeline %s', newest.system_identifier, newest.timeline);
    now_is := format('server %s, timeline %s', here.system_identifier, here.timeline);
    insert into orderly.epochs
    values (begun, ('x' || orderly.random_digits())::bit(64)::bigint,
        decode(orderly.random_digits() || orderly.random_digits(), 'hex'), here.system_identifier, here.timeline, first_order_id,
        after_position, clock_timestamp());
    -- Last, since a rollback does not reset a sequence.
    perform setval('orderly.order_ids', first_order_id - 1);
    perform setval('orderly.batch_ids', last_value + ids_left_out) from orderly.batch_ids;
end $begin$;
