-- Stores orders as another store had them; $1-$23: one row per order.
insert into orderly.orders (order_id, status, version, attempts, generation, crashes, token, node, lease_expires_at,
    created_at, changed_at, processing_at, finished_at, due_at, user_id, total_amount, item_ids, reference, last_error,
    metadata, result, outside, handed_out)
select * from unnest($1::int8[], $2::int2[], $3::int4[], $4::int4[], $5::int4[], $6::int4[], $7::int8[], $8::int8[],
    $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[],
    $14::timestamptz[], $15::int8[], $16::int8[], $17::text[], $18::text[], $19::text[], $20::text[],
    $21::text[], $22::bool[], $23::bool[])
