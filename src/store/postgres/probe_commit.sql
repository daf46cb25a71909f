-- Commits a record that no table has, so that the answer shows whether commits return. The limit does not end a commit that
-- waits for a standby. :time_ms is replaced by a number.
begin isolation level read committed;
set local statement_timeout = :time_ms;
select pg_logical_emit_message(true, 'orderly', 'probe');
commit
