-- A worker outside holds the lease $1, $2 for $3 microseconds from now on, but no longer than $4 after the start of its
-- attempt; no row when it is another's by now, or that time is over;
-- a row without a time when another session has locked the order. Served by the primary key.
with moment as materialized (
    select clock_timestamp() as at
), free as materialized (
    select order_id from orderly.orders
    where order_id = $1 and token = $2 and status = 1
    for update skip locked
), held as (
    update orderly.orders as o set
        outside = true,
        handed_out = true,
        lease_expires_at = least(
            moment.at + $3 * interval '1 microsecond', o.processing_at + $4 * interval '1 microsecond')
    from moment, free
    where o.order_id = free.order_id and o.token = $2 and o.status = 1
        and o.processing_at + $4 * interval '1 microsecond' > moment.at
    returning o.lease_expires_at
)
select lease_expires_at from held
union all
select null from orderly.orders
where order_id = $1 and token = $2 and status = 1 and not exists (select from free)
