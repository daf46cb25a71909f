-- Stores the orders of a group of calls, some with keys. Calls whose key is stored already are left out and have no row in
-- the answer. order_calls: the number of the call of each order; key_calls: that of each key.
create function :accept_keyed(
    order_calls integer[], user_ids bigint[], amounts bigint[], items text[], order_references text[], metadatas text[],
    user_names text[], currencies text[], line_lists text[], start_afters timestamptz[], helds boolean[], hold_reasons text[],
    deadlines timestamptz[], key_calls integer[], scopes text[], keys text[], fingerprints bytea[],
    counter_slot smallint
) returns table (stored_call integer, stored_order_ids bigint[], accepted_at timestamptz)
language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_nestloop = off
set lock_timeout = 3000
as $accept$
declare
    kept_orders record;
begin
    perform :epoch_here();
    with moment as materialized (
        -- See accept.
        select greatest(clock_timestamp(), (
                select created_at from orderly.orders order by order_id desc limit 1)) as at,
            pg_current_xact_id() as transaction
    ), numbered as materialized (
        select nextval('orderly.order_ids') as order_id, new.*
        from moment, unnest(
                order_calls, user_ids, amounts, items, order_references, metadatas, user_names, currencies, line_lists,
                start_afters, helds, hold_reasons, deadlines)
            with ordinality
            as new (call, user_id, total_amount, item_ids, reference, metadata, user_name, currency, lines, start_after, held,
                hold_reason, deadline, place)
        where moment.transaction is not null
    ), calls as materialized (
        select call, array_agg(order_id order by place) as order_ids from numbered group by call
    ), asked as materialized (
        -- An existing key is read before it is locked. Read one by one, whatever the plan says of joins.
        select given.*, (
            select known.created_at from orderly.idempotency_keys as known
            where known.scope = given.scope and known.key = given.key) as stored_at
        from unnest(key_calls, scopes, keys, fingerprints) as given (call, scope, key, fingerprint)
    ), kept as (
        -- In the order of the keys, so that two groups that share keys never wait for each other.
        insert into orderly.idempotency_keys as stored (scope, key, fingerprint, order_ids, created_at)
        select asked.scope, asked.key, asked.fingerprint, calls.order_ids, moment.at
        from moment, asked join calls using (call)
        where case
            when asked.stored_at is null then true
            when asked.stored_at <= moment.at - interval '24 hours' then coalesce((
                select true from orderly.idempotency_keys as known
                where known.scope = asked.scope and known.key = asked.key
                for update skip locked), false)
            else false end
        order by asked.scope collate "C", asked.key collate "C"
        -- An expired key may still be stored; it is replaced.
        on conflict (scope, key) do update set
            fingerprint = excluded.fingerprint, order_ids = excluded.order_ids, created_at = excluded.created_at
            where stored.created_at <= excluded.created_at - interval '24 hours'
        returning stored.order_ids[1] as first_order_id
    ), stored_calls as materialized (
        select calls.call
        from calls
            left join unnest(key_calls) as keyed (call) using (call)
            left join kept on kept.first_order_id = calls.order_ids[1]
        where keyed.call is null or kept.first_order_id is not null
    )
    select (select at from moment) as at, array_agg(call order by place) as calls, array_agg(order_id order by place) as order_ids,
        array_agg(user_id order by place) as user_ids, array_agg(total_amount order by place) as amounts,
        array_agg(item_ids order by place) as items, array_agg(reference order by place) as order_references,
        array_agg(metadata order by place) as metadatas, array_agg(user_name order by place) as user_names,
        array_agg(currency order by place) as currencies, array_agg(lines order by place) as line_lists,
        array_agg(start_after order by place) as start_afters, array_agg(held order by place) as helds,
        array_agg(hold_reason order by place) as hold_reasons, array_agg(deadline order by place) as deadlines
    into kept_orders
    from numbered where call in (select call from stored_calls);
    if kept_orders.order_ids is null then
        return;
    end if;
    perform :store_orders(
        kept_orders.order_ids, kept_orders.at, kept_orders.user_ids, kept_orders.amounts, kept_orders.items,
        kept_orders.order_references, kept_orders.metadatas, kept_orders.user_names, kept_orders.currencies,
        kept_orders.line_lists, kept_orders.start_afters, kept_orders.helds, kept_orders.hold_reasons,
        kept_orders.deadlines, counter_slot);
    return query
    select call, array_agg(order_id order by place), kept_orders.at
    from unnest(kept_orders.calls, kept_orders.order_ids) with ordinality as stored (call, order_id, place)
    group by call;
end $accept$;
