-- Finds out whether commits wait for a standby, whether one is connected that may confirm them (a role without the right to see which one
-- that is sees that there is one), and the number of sessions that have waited for it for longer than a healthy one takes.
select current_setting('synchronous_standby_names') <> '' and current_setting('synchronous_commit') not in ('off', 'local')
        and current_setting('neon.timeline_id', true) is null
        -- A standby may have its primary's configuration, and commits nothing.
        and not pg_is_in_recovery(),
    exists (select from pg_stat_replication where sync_state is null or sync_state <> 'async'),
    (select count(*) from pg_stat_activity where wait_event = 'SyncRep' and extract(epoch from now() - query_start) > 2)
