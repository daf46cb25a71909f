-- Finds out whether a session of this role and database has waited for a synchronous standby for longer than with a healthy
-- one, and whether a commit of a probe of any node is under way. A role sees its own sessions, also through a pooler.
select coalesce(bool_or(wait_event = 'SyncRep' and extract(epoch from now() - query_start) > 2), false),
    coalesce(bool_or(state = 'active' and query like '%pg_logical_emit_message(true, ''orderly'', ''probe'')%'), false)
from pg_stat_activity
where pid <> pg_backend_pid() and usename = session_user and datname = current_database()
