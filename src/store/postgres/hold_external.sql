-- Extends the lease of order $1 and fence $2 by $3 microseconds from now, to at most $4 after the start of the attempt, and
-- marks it as that of an external worker. Returns no row when the lease has another fence or that time is over, and a row
-- without a time when another session has locked the lease. Served by the primary key.
with moment as materialized (
    select clock_timestamp() as at
), free as materialized (
    select order_id from orderly.leases where order_id = $1 and fence = $2
    for update skip locked
), held as (
    update orderly.leases as l set
        outside = true,
        handed_out = true,
        expires_at = least(moment.at + $3 * interval '1 microsecond', l.started_at + $4 * interval '1 microsecond')
    from moment, free
    where l.order_id = free.order_id and l.fence = $2 and l.started_at + $4 * interval '1 microsecond' > moment.at
    returning l.expires_at
)
select expires_at from held
union all
select null from orderly.leases
where order_id = $1 and fence = $2 and not exists (select from free)
