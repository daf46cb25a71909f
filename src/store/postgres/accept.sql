-- Stores the orders of a group of calls without keys; the arrays have one element per order. accept_keyed does the same for
-- groups with keys.
create function :accept(
    user_ids bigint[], amounts bigint[], items text[], order_references text[], metadatas text[], user_names text[],
    currencies text[], line_lists text[], start_afters timestamptz[], helds boolean[], hold_reasons text[],
    deadlines timestamptz[], counter_slot smallint,
    out order_ids bigint[], out accepted_at timestamptz
) language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set lock_timeout = 3000
as $accept$
begin
    perform :epoch_here();
    -- The creation time never runs backwards. The transaction gets its id before it draws order ids: a claim that sees a
    -- later id in the sequence waits for a transaction with an earlier one (the lower bound of claims).
    with moment as materialized (
        select greatest(clock_timestamp(), (
                select created_at from orderly.orders order by order_id desc limit 1)) as at,
            pg_current_xact_id() as transaction
    ), drawn as materialized (
        select nextval('orderly.order_ids') as order_id, place
        from moment, generate_series(1, cardinality(user_ids)) as place
        where moment.transaction is not null
    )
    select array(select order_id from drawn order by place), moment.at into order_ids, accepted_at from moment;
    perform :store_orders(
        order_ids, accepted_at, user_ids, amounts, items, order_references, metadatas, user_names, currencies, line_lists,
        start_afters, helds, hold_reasons, deadlines, counter_slot);
end $accept$;
