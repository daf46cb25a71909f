-- A worker outside holds the lease $1, $2 for $3 microseconds from now on, but no longer than $4 after the start of its
-- attempt; no row when it is another's by now, or that time is over. Served by the primary key.
with moment as materialized (
    select clock_timestamp() as at
)
update orderly.orders as o set
    outside = true,
    handed_out = true,
    lease_expires_at = least(
        moment.at + $3 * interval '1 microsecond', o.processing_at + $4 * interval '1 microsecond')
from moment
where o.order_id = $1 and o.token = $2 and o.status = 1
    and o.processing_at + $4 * interval '1 microsecond' > moment.at
returning o.lease_expires_at
