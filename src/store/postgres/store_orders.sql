-- Stores accepted orders with their events; one element per order, in the order of acceptance. Where the orders of a user
-- wait for each other, the next claim assigns their turns. Arrays of members that no order has are null.
create function :store_orders(
    new_order_ids bigint[], accepted_at timestamptz, user_ids bigint[], amounts bigint[], items text[],
    order_references text[], metadatas text[], user_names text[], currencies text[], line_lists text[], start_afters timestamptz[], helds boolean[],
    hold_reasons text[], deadlines timestamptz[], counter_slot smallint
) returns void language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off
as $store$
begin
    with asked as materialized (
        select *, coalesce(held or start_after > accepted_at, false) as set_aside from unnest(
            new_order_ids, user_ids, amounts, items, order_references, metadatas, user_names, currencies, line_lists,
            start_afters, helds, hold_reasons, deadlines)
            as new (order_id, user_id, total_amount, item_ids, reference, metadata, user_name, currency, lines, start_after, held,
                hold_reason, deadline)
    ), batch as materialized (
        select nextval('orderly.batch_ids') as batch, (select ordering > 0 from orderly.queue where id = 1) as in_turn
    ), stored as (
        insert into orderly.orders (
            order_id, user_id, user_name, total_amount, currency, created_at, accepted_in, item_ids, lines, reference, metadata,
            start_after, deadline)
        select order_id, user_id, user_name, total_amount, currency, accepted_at, batch, item_ids, lines, reference, metadata,
            start_after, deadline
        from batch, asked
    ), waiting as (
        insert into orderly.first_line select order_id from batch, asked where not in_turn and not set_aside
    ), in_turn as (
        insert into orderly.blocked (order_id, user_id, since, suspect)
        select order_id, user_id, accepted_at, false from batch, asked where in_turn and not set_aside
    ), aside as (
        insert into orderly.set_aside (order_id, user_id, held_at, hold_reason, start_after, due_at, suspect)
        select order_id, user_id, case when held then accepted_at end, hold_reason, start_after, accepted_at, false
        from asked where set_aside
    ), timed as (
        insert into orderly.deadlines (order_id, deadline) select order_id, deadline from asked where deadline is not null
    ), unseen as (
        insert into orderly.unseen (user_id) select distinct user_id from batch, asked where in_turn
    ), recorded as (
        insert into orderly.batches (batch, kind, at, order_ids) select batch, 0, accepted_at, new_order_ids from batch
    )
    update orderly.counters set
        pending = pending + cardinality(new_order_ids),
        held = held + case when helds is null then 0 else (select count(*) from asked where asked.held) end,
        scheduled = scheduled + case when start_afters is null then 0 else (
            select count(*) from asked where set_aside and asked.held is not true) end
    where slot = (select orderly.free_counter(counter_slot));
end $store$;
