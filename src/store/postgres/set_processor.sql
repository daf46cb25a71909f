-- One message that sets the processor of the store to that of node :node, unless another live node has another one.
-- :processor is its code. Returns the processor of the store. :lock is the claim lock, so that no claim goes by the
-- previous one any more.
begin isolation level read committed;
set local statement_timeout = 5000;
set local lock_timeout = 5000;
set local idle_in_transaction_session_timeout = 5000;
select pg_advisory_xact_lock(:lock);
-- Claims wait meanwhile.
set local lock_timeout = 1000;
update orderly.queue set processor = :processor
where processor <> :processor
    and not exists (
        select from orderly.nodes
        where node <> :node and expires_at >= clock_timestamp() and nodes.processor <> :processor);
select processor as processor from orderly.queue;
commit
