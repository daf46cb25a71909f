-- Stores the epochs of another store, where there are none yet, one element each ($1 numbers, $2 identities, $3 secrets, $4
-- first order ids, $5 start times), and begins a new epoch after them whose first order id is $6. The copied events get
-- other positions than in that store: they begin after position $7, and all belong to the new epoch.
with copied as materialized (
    select * from unnest($1::int8[], $2::int8[], $3::bytea[], $4::int8[], $5::timestamptz[])
        as copied (epoch, identity, secret, first_order_id, began_at)
)
insert into orderly.epochs (
    epoch, identity, secret, system_identifier, timeline, first_order_id, after_position, began_at)
select epoch, identity, secret, null, null, first_order_id, $7::int8, began_at from copied
union all
select orderly.next_epoch((select max(epoch) from copied)), ('x' || orderly.random_digits())::bit(64)::bigint,
    decode(orderly.random_digits() || orderly.random_digits(), 'hex'), here.system_identifier, here.timeline, $6::int8, $7::int8,
    clock_timestamp()
from orderly.server_life() as here
