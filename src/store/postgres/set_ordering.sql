-- One message that makes the orders of a user wait for each other, or no longer, unless another node is alive that was told
-- otherwise: :ordering as the schema has it. Writers wait for it, so that whatever is stored later goes by it, and nothing that
-- waits is forgotten. Looks at all orders that wait. :lock and :node are numbers put into the text.
begin isolation level read committed;
set local statement_timeout = 600000;
set local lock_timeout = 5000;
set local idle_in_transaction_session_timeout = 5000;
select pg_advisory_xact_lock(:lock);
-- All claims wait for the lock that is held here, so what an outsider holds is not waited for long.
set local lock_timeout = 1000;
lock table orderly.orders in share row exclusive mode;
update orderly.queue set
    ordering = :ordering,
    ordering_from = (select case when is_called then last_value else 0 end from orderly.order_ids)
where ordering <> :ordering
    and not exists (
        select from orderly.nodes
        where node <> :node and expires_at >= clock_timestamp() and nodes.ordering <> :ordering);
update orderly.orders set turn = case when :ordering > 0 then 2 end
where (status = 0 or turn = 2) and exists (select from orderly.queue where ordering = :ordering);
select ordering as ordering from orderly.queue;
commit
