-- One message that claims where the orders of a user wait for each other, so that a node that freezes anywhere never holds the
-- lock: the server carries it out to its end without asking back. What comes out is small enough never to wait for a reader.
-- Elsewhere it is orderly.claim, the same statements planned once; turns.rs puts in whose turn it is.
-- :places, :spare, :time_ms, :lock, :node, :lease_micros, :suspect, :outside, :handed_out, :processor, :ordering, :second_line_first, :floor, :slot are numbers put into the text,
-- :stepped_around is an array of them: orders whose start the database refused, passed over as locked ones are.
-- No order at or below :floor can be in the first line any more; see floor.rs.
begin isolation level read committed;
set local statement_timeout = :time_ms;
set local lock_timeout = :time_ms;
-- The plans of the lines are the heads of their indexes, whatever the statistics say.
-- Plans that are switched off cost so much that compiling them would seem worth it.
set local jit = off;
set local enable_seqscan = off;
set local enable_bitmapscan = off;
set local enable_sort = off;
set local enable_hashjoin = off;
set local enable_mergejoin = off;
-- Claims of all nodes come one after another, each with a view that has everything committed before: first-in
-- first-out start.
select pg_advisory_xact_lock(:lock);
-- Read before this transaction gets its id: every order id up to it was drawn by a transaction with an earlier one. And
-- before the claim's own view: whatever ended before the oldest transaction that runs now is seen by it.
select case when is_called then last_value else 0 end as last_order_id, pg_snapshot_xmin(pg_current_snapshot()) as oldest_running
from orderly.order_ids;
with moment as materialized (
    select clock_timestamp() as at
), running as materialized (
    -- Nor where the orders of a user wait for each other and this node does not know, or where something else processes them.
    select 1 from orderly.queue
    where not paused and ordering = :ordering and (:processor < 0 or processor = :processor)
), first_line as materialized (
    -- Served by orders_first alone.
    select order_id, order_id + 0 as turn from orderly.orders
    where status = 0 and due_at is null and order_id + 0 > :floor and exists (select from running)
    order by order_id + 0
    limit :places + :spare
), first_free as materialized (
    -- One after the other, no more than are wanted.
    select order_id, turn
    from first_line cross join lateral (
        select 1 as locked from orderly.orders as o
        where o.order_id = first_line.order_id and o.status + 0 = 0 and o.due_at is null
            and o.order_id <> all (:stepped_around)
        for update skip locked) as free
    limit :places
), second_line as materialized (
    -- Served by orders_due and orders_suspect: orders that wait out a back-off are behind the range that is read.
    (select order_id, due_at, false as suspect from orderly.orders
    where status = 0 and due_at is not null and crashes < 2 and due_at <= (select at from moment)
        and exists (select from running)
    order by due_at, order_id
    limit :places + :spare)
    union all
    (select order_id, due_at, true as suspect from orderly.orders
    where status = 0 and due_at is not null and crashes >= 2 and due_at <= (select at from moment)
        and :suspect = 1 and exists (select from running)
    order by due_at, order_id
    limit least(:places, 1) + :spare)
), second_free as materialized (
    (select order_id, due_at, suspect
    from second_line cross join lateral (
        select 1 as locked from orderly.orders as o
        where o.order_id = second_line.order_id and o.status + 0 = 0 and o.due_at is not null
            and o.order_id <> all (:stepped_around)
        for update skip locked) as free
    where not suspect
    limit :places)
    union all
    (select order_id, due_at, suspect
    from second_line cross join lateral (
        select 1 as locked from orderly.orders as o
        where o.order_id = second_line.order_id and o.status + 0 = 0 and o.due_at is not null
            and o.order_id <> all (:stepped_around)
        for update skip locked) as free
    where suspect
    limit least(:places, 1))
), lines as materialized (
    select (select count(*) from first_free) as first, (select max(order_id) from first_free) as last,
        count(*) as second, count(*) filter (where suspect) as suspects
    from second_free
), first_passed as materialized (
    -- What was looked at in vain, by rising id.
    select order_id from first_line, lines
    where order_id not in (select order_id from first_free) and (lines.first < :places or order_id < lines.last)
), second_passed as materialized (
    select order_id from second_line, lines
    where order_id not in (select order_id from second_free)
        and case when suspect then lines.suspects < least(:places, 1) else lines.second - lines.suspects < :places end
), share as materialized (
    -- While both lines have work, both move; a short line leaves its places to the other.
    select least(second, greatest((:places + :second_line_first) / 2, :places - first)) as second from lines
), chosen as materialized (
    (select order_id, 1 as line, row_number() over (order by turn) as turn from first_free
    order by turn limit (select :places - second from share))
    union all
    (select order_id, 2 as line, row_number() over (order by due_at, order_id) as turn from second_free
    order by turn limit (select second from share))
), started as (
    update orderly.orders as o set
        status = 1,
        version = o.version + 1,
        attempts = o.attempts + 1,
        token = o.token + 1,
        node = :node,
        outside = :outside = 1,
        handed_out = :handed_out = 1,
        lease_expires_at = moment.at + :lease_micros * interval '1 microsecond',
        processing_at = greatest(moment.at, o.changed_at),
        changed_at = greatest(moment.at, o.changed_at)
    from moment, chosen
    -- Driven by what was chosen, as in orderly.claim.
    where o.order_id = chosen.order_id and chosen.order_id + 0 = chosen.order_id and o.status + 0 = 0
    returning o.order_id, o.version, o.attempts, o.token, o.changed_at, chosen.line, chosen.turn
), believed as (
    -- An idle node says that it lives for longer than a lease lasts; with orders in its hands it is believed no longer.
    update orderly.nodes as n set expires_at = moment.at + :lease_micros * interval '1 microsecond'
    from moment
    where n.node = :node and n.expires_at > moment.at + :lease_micros * interval '1 microsecond'
        and exists (select from started)
        and n.node = (select mine.node from orderly.nodes as mine where mine.node = :node for update skip locked)
), batch as (
    insert into orderly.batches (batch, events)
    select nextval('orderly.batch_ids'), count(*) from started having count(*) > 0
    returning batch
), recorded as (
    insert into orderly.events (batch, place, order_id, version, kind, status, at, attempt, node, passed_over)
    select batch, row_number() over (order by line, turn) - 1, order_id, version, 1, 1, changed_at, attempts, :node,
        case when line = 1 then nullif(
            array(select p.order_id from first_passed as p where p.order_id < started.order_id), '{}') end
    from batch, started
), counted as (
    update orderly.counters set pending = pending - change.started, processing = processing + change.started
    from (select count(*) as started from started) as change
    where slot = (select orderly.free_counter(:slot) where exists (select from started)) and change.started > 0
)
-- The first line is exhausted when all of it was seen, and taken but for what was passed over.
select array(select order_id from started order by line, turn) as order_ids,
    array(select token from started order by line, turn) as tokens,
    (select max(order_id) from started where line = 1) as claimed,
    ((select count(*) from first_line) < :places + :spare and lines.first < :places and lines.first + share.second <= :places)::int as exhausted,
    (select count(*) from running) as running,
    array(select order_id from first_passed) as locked_first, array(select order_id from second_passed) as locked_second
from lines cross join share;
-- Whether it wrote something; when the next order of the second line is due that such a claim may take; how many orders
-- are open.
select pg_current_xact_id_if_assigned() as transaction,
    (select (extract(epoch from min(due_at) - clock_timestamp()) * 1000000)::int8 from (
        (select due_at from orderly.orders
        where status = 0 and due_at is not null and crashes < 2 and order_id <> all (:stepped_around)
        order by due_at, order_id limit 1)
        union all
        (select due_at from orderly.orders
        where status = 0 and due_at is not null and crashes >= 2 and :suspect = 1
            and order_id <> all (:stepped_around)
        order by due_at, order_id limit 1)) as due
    where exists (select from orderly.queue where not paused)) as next_due_in_micros,
    (select sum(pending + processing)::int8 from orderly.counters) as open_orders,
    (select ordering from orderly.queue) as stored_ordering,
    (select processor from orderly.queue) as stored_processor;
commit
