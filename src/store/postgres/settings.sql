-- The settings of the server and of this session, as they are: roles, databases and poolers can set them as well.
select current_setting('server_version_num'), current_setting('transaction_read_only'),
    current_setting('default_transaction_isolation'), current_setting('synchronous_commit'), current_setting('fsync'),
    current_setting('full_page_writes'), current_setting('synchronous_standby_names'),
    (current_setting('neon.timeline_id', true) is not null)::text,
    -- The run of the server: it differs for another server, another database, and after a restart.
    extract(epoch from pg_postmaster_start_time())::text || ' ' || (select oid from pg_database where datname = current_database()),
    current_setting('server_encoding'), pg_is_in_recovery()::text
