-- The settings of the server and of this session, read back rather than asked for: roles, databases and poolers set them too.
select current_setting('server_version_num'), current_setting('transaction_read_only'),
    current_setting('default_transaction_isolation'), current_setting('synchronous_commit'), current_setting('fsync'),
    current_setting('full_page_writes'), current_setting('synchronous_standby_names'),
    (current_setting('neon.timeline_id', true) is not null)::text,
    -- Which server this is: another one, one that was started again or another database answers something else.
    extract(epoch from pg_postmaster_start_time())::text || ' ' || (select oid from pg_database where datname = current_database()),
    current_setting('server_encoding'), pg_is_in_recovery()::text
