-- Single orders by ids, which may repeat, and the end of the feed, in one view of the database: a row for each order that
-- exists, with its place in the list. Served by primary keys, id by id.
create function :view_orders(asked_ids bigint[]) returns table (
    order_id bigint, status smallint, version integer, attempts integer, generation integer, created_at timestamptz,
    processing_at timestamptz, finished_at timestamptz, due_at timestamptz, user_id bigint, total_amount bigint, item_ids text,
    reference text, last_error text, metadata text, result text, user_name text, currency text, lines text,
    start_after timestamptz, held_at timestamptz, hold_reason text, milestone text, deadline timestamptz, overdue boolean, fence bigint, crashes integer, epoch_identity bigint,
    last_position bigint, place bigint
) language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set lock_timeout = 3000
as $view$
#variable_conflict use_column
begin
    return query
    select found.order_id, found.status, found.version, found.attempts, found.generation, found.created_at, found.processing_at,
        found.finished_at, found.due_at, found.user_id, found.total_amount, found.item_ids, found.reference, found.last_error,
        found.metadata, found.result, found.user_name, found.currency, found.lines, found.start_after, found.held_at,
        found.hold_reason, found.milestone, found.deadline, found.overdue, found.fence, found.crashes, newest.identity, queue.last_position, asked.place
    from orderly.queue cross join (
            select e.identity from orderly.epochs as e order by e.epoch desc limit 1) as newest
        cross join unnest(asked_ids) with ordinality as asked (id, place)
        cross join lateral (select * from orderly.order_state where order_state.order_id = asked.id offset 0) as found
    where queue.id = 1;
end $view$;
