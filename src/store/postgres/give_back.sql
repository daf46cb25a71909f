-- Takes back orders whose leases ran out: ends their attempts as settle does. Passes over leases that were renewed or ended
-- since they were read, and rows that another session has locked or another node is taking back. $1-$11: one element per
-- lease, by rising order id; $12: counter row; $13: the run of the server whose clock found the leases expired, as in
-- settings.sql, because the clock of another server may be ahead. Served by the key of leases.
select ended_order_id, ended_status
from :settle(
    $1, array(
        -- Without a fence, settle finds no lease.
        select (
            select l.fence from orderly.leases as l
            where l.order_id = lost.order_id and l.fence = lost.fence and l.expires_at < (select clock_timestamp())
                and $13 = extract(epoch from pg_postmaster_start_time())::text || ' ' || (
                    select oid from pg_database where datname = current_database())
            for update skip locked)
        from unnest($1, $2) with ordinality as lost (order_id, fence, place)
        order by place),
    $3, $4, $5, $6, $7, $8, $10, $9, $11, $12)
where ended_status is not null
