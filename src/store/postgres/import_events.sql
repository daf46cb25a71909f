-- Stores the next events of a feed, the first at position $1, as batches: the events of a run ($2) share one. $2-$11: one
-- row per event, in the order of the feed. Rows of nested arrays must have one length, so the orders that a run passed over
-- come as the text of their array.
with event as materialized (
    select *
    from unnest($2::int4[], $3::int8[], $4::int4[], $5::int2[], $6::timestamptz[], $7::int4[], $8::int8[], $9::text[], $10::text[],
            $11::text[])
        with ordinality as event (run, order_id, version, kind, at, attempt, node, error, passed_over, detail, place)
), drawn as materialized (
    select run, nextval('orderly.batch_ids') as batch from (select distinct run from event order by run) as runs
), recorded as (
    insert into orderly.batches (
        batch, first_position, kind, at, order_ids, versions, attempts, nodes, ats, errors, passed_over, details)
    select batch, $1 + min(place) - 1, min(kind), min(at), array_agg(order_id order by place), array_agg(version order by place),
        array_agg(attempt order by place), array_agg(node order by place),
        case when min(at) < max(at) then array_agg(at order by place) end,
        case when count(error) > 0 then array_agg(error order by place) end, max(passed_over)::int8[],
        case when count(detail) > 0 then array_agg(detail order by place) end
    from event join drawn using (run)
    group by batch
)
insert into copied_events (order_id, version, kind, at, attempt, node, batch, error, detail)
select order_id, version, kind, at, attempt, node, batch, error, detail from event join drawn using (run)
