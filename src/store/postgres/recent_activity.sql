-- Adds up the activity of the last $1 microseconds, and reads which order has been in processing longest and how many external
-- workers have. Leases are as few as the slots of the nodes and the orders at external workers.
select clock_timestamp(), recent.*, oldest.*,
    (select count(*) from (select from orderly.leases where outside limit $2) as leased)
from (
    select coalesce(sum(accepted), 0)::int8, coalesce(sum(started), 0)::int8, coalesce(sum(completed), 0)::int8,
        coalesce(sum(retried), 0)::int8, coalesce(sum(failed), 0)::int8, coalesce(sum(leases_lost), 0)::int8,
        coalesce(sum(leases_refused), 0)::int8
    from orderly.activity
    where recorded_at > (select clock_timestamp() - $1::int8 * interval '1 microsecond')
) as recent
left join (
    select order_id, node, (extract(epoch from clock_timestamp() - started_at) * 1000000)::int8, outside
    from orderly.leases order by started_at, order_id limit 1
) as oldest on true
