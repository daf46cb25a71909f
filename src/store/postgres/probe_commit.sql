-- Commits something that no table has, so that the answer shows whether commits come back. The limit does not fire while a
-- commit waits for a standby. :time_ms is a number put into the text.
begin isolation level read committed;
set local statement_timeout = :time_ms;
select pg_logical_emit_message(true, 'orderly', 'probe');
commit
