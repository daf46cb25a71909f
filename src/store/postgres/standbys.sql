-- Finds out whether commits wait for a standby, whether one is connected that may confirm them (a role without the right to
-- see its state sees that there is one), and how many sessions have waited for it for longer than with a healthy one.
select current_setting('synchronous_standby_names') <> '' and current_setting('synchronous_commit') not in ('off', 'local')
        and current_setting('neon.timeline_id', true) is null
        -- A standby may have the configuration of its primary, and commits nothing.
        and not pg_is_in_recovery(),
    exists (select from pg_stat_replication where sync_state is null or sync_state <> 'async'),
    (select count(*) from pg_stat_activity where wait_event = 'SyncRep' and extract(epoch from now() - query_start) > 2)
