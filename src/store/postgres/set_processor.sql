-- One message that makes the store's processor that of node :node, unless another node is alive that was told otherwise:
-- :processor as the schema has it. Answers what it is then. :lock is the claim's: no claim goes by the one before any more.
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
