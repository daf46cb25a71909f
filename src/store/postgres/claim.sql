-- Claims due orders of both lines for a node: chooses the next ones, or picks the wanted ones that may start, and starts
-- them. wanted: null when the store chooses. Called in a message of its own that ends the transaction: the server runs the
-- message to its end without asking back, so a node that freezes never holds the lock. The answer is small enough to be
-- sent without waiting for its reader.
create function :claim(
    places bigint, claiming_node bigint, lease_micros bigint, takes_suspects boolean, is_outside boolean,
    is_handed_out boolean, wanted bigint[], known_processor bigint, known_ordering bigint, second_first bigint, above bigint,
    spare bigint, unseen_max bigint, counter_slot bigint, claim_lock bigint, stepped_around bigint[],
    out started bigint[], out texts json, out claimed bigint, out exhausted boolean, out running boolean,
    out last_order_id bigint, out oldest_running xid8, out transaction xid8, out next_due_in_micros bigint,
    out open_orders bigint, out stored_ordering smallint, out stored_processor smallint,
    out passed_first bigint[], out passed_second bigint[], out unseen bigint, out epoch_identity bigint
) language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off
as $claim$
declare
    first_ids bigint[];
    second_ids bigint[];
    second_after bigint;
    overtaken bigint[];
    current_epoch bigint;
begin
    select here.number, here.identity into current_epoch, epoch_identity from :epoch_here() as here;
    -- Claims that choose run one at a time. Each statement of a function has its own view, so each claim sees everything that
    -- was committed before it: first in, first out. Starts of given orders run side by side; a claim that chooses, a pause and
    -- a change of the ordering wait for them, and they for those. Where turns must be settled first, a start waits like a claim.
    if wanted is null or known_ordering > 0 then
        perform pg_advisory_xact_lock(claim_lock);
    else
        perform pg_advisory_xact_lock_shared(claim_lock);
    end if;
    -- Read before this transaction gets its id: every order id up to it was drawn by an earlier transaction. Also read
    -- before the claim takes its own view: it sees everything that ended before the oldest transaction now running.
    select case when is_called then last_value else 0 end, pg_snapshot_xmin(pg_current_snapshot())
    into last_order_id, oldest_running from orderly.order_ids;
    -- Nothing starts when this node uses another ordering, or the orders belong to another processor.
    select q.ordering, q.processor,
        not q.paused and q.ordering = known_ordering and (known_processor < 0 or q.processor = known_processor)
    into stored_ordering, stored_processor, running
    from orderly.queue as q where q.id = 1;
    if stored_ordering > 0 and (wanted is null or known_ordering > 0) then
        unseen := :see_to_turns(unseen_max, stored_ordering in (2, 4), stored_ordering in (1, 2), stepped_around);
    end if;
    if running and wanted is null then
        select * into first_ids, second_ids, exhausted, passed_first, passed_second
        from :choose(places, takes_suspects, second_first, above, spare, stepped_around);
        claimed := first_ids[cardinality(first_ids)];
        second_after := cardinality(first_ids);
        overtaken := passed_first;
    elsif running then
        select * into first_ids, second_ids, passed_second
        from :pick(wanted, places, takes_suspects, stepped_around);
        second_after := 0;
        -- The caller owns the order of these starts, except among the orders of one user.
        overtaken := case when stored_ordering = 0 then '{0}'::bigint[] else '{}' end;
    end if;
    if first_ids <> '{}' or second_ids <> '{}' then
        select * into started, texts
        from :start(
            first_ids, second_ids, second_after, claiming_node, lease_micros, is_outside, is_handed_out, overtaken,
            counter_slot, current_epoch << 27);
    end if;
    -- Reads whether the claim wrote anything, when the next order of the second line is due that such a claim may take, and
    -- how many orders are open.
    select pg_current_xact_id_if_assigned(),
        (select (extract(epoch from min(due_at) - clock_timestamp()) * 1000000)::int8 from (
            (select due_at from orderly.second_line
            where not suspect and order_id <> all (stepped_around)
            order by due_at, order_id limit 1)
            union all
            (select due_at from orderly.second_line
            where suspect and takes_suspects and order_id <> all (stepped_around)
            order by due_at, order_id limit 1)) as due
        where exists (select from orderly.queue as q where q.id = 1 and not q.paused)),
        (select sum(pending + processing - held - scheduled)::int8 from orderly.counters)
    into transaction, next_due_in_micros, open_orders;
end $claim$;
