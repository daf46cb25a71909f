-- Tests whether orders can be stored: a write like that of an accept with a key, and the rights that claims, results and
-- heartbeats need. Rolled back, so nothing is synced and no other session sees it. :time_ms, :slot and :kilobytes are
-- replaced by numbers; the last is the space to allocate, in the data files as well.
begin isolation level read committed;
set local statement_timeout = :time_ms;
set local lock_timeout = :time_ms;
select count(*) from (select :accept_keyed(
    array[0], array[1::int8], array[0::int8], array['1'], array[null::text],
    array[(select string_agg(gen_random_uuid()::text, '') from generate_series(1, :kilobytes * 28))],
    null, null, null, null, null, null, null, array[0], array['orderly probe'], array[gen_random_uuid()::text], array[''::bytea], :slot::int2)) as accepted;
select count(*) from (select :see_to_turns(0, false, false, '{}')) as seen_to;
select count(*) from (select :start('{}', '{}', 0, 0, 0, false, false, '{}', :slot, 0)) as started;
select count(*) from (
    select :settle('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', :slot::int2)) as settled;
insert into orderly.nodes select * from orderly.nodes where false
on conflict (node) do update set heartbeat_at = excluded.heartbeat_at;
update orderly.queue set paused = paused where false;
rollback
