-- Returns the newest epoch of the store. Fails with OE000 when the server is not that of the epoch: another server took
-- over, or this one continued from an earlier point, so an epoch must begin before anything is given out. Called before a
-- message takes locks or numbers.
--
-- The timeline is that of the log being written, so it is right from the first moment after a promotion. The server's
-- identifier never changes while the server runs, and reading it costs a file access, so a setting of the session keeps it.
-- The session belongs to one server, however many poolers are in between.
create function :epoch_here(out number bigint, out identity bigint) language plpgsql
as $here$
declare
    newest record;
    system text := current_setting('orderly.system_identifier', true);
begin
    -- A standby writes no log.
    if pg_is_in_recovery() then
        raise exception using errcode = '25006', message = 'cannot write: the server is a standby';
    end if;
    if coalesce(system, '') = '' then
        system := set_config(
            'orderly.system_identifier',
            coalesce((select here.system_identifier from orderly.server_life() as here)::text, 'unknown'), false);
    end if;
    select e.epoch, e.identity, e.timeline, coalesce(e.system_identifier::text, 'unknown') as system into newest
    from orderly.epochs as e order by e.epoch desc limit 1;
    -- The function for the log fails where a service does not offer it.
    if newest.system <> system or (
        case when newest.timeline is not null
            then newest.timeline <> left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
            else false end)
    then
        raise exception using errcode = 'OE000', message = 'the store''s newest epoch is that of another life of the server';
    end if;
    number := newest.epoch;
    identity := newest.identity;
end $here$;
