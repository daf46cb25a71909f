-- Stores row $2 of node $1, replacing an earlier version of it, and removes rows older than $10 microseconds.
with moment as materialized (
    select clock_timestamp() as at
), removed as (
    delete from orderly.activity
    where recorded_at < (select at - $10::int8 * interval '1 microsecond' from moment) and (node, number) <> ($1, $2)
)
insert into orderly.activity (
    node, number, recorded_at, accepted, started, completed, retried, failed, leases_lost, leases_refused)
select $1, $2, at, $3, $4, $5, $6, $7, $8, $9 from moment
on conflict (node, number) do update set
    recorded_at = excluded.recorded_at, accepted = excluded.accepted, started = excluded.started, completed = excluded.completed, retried = excluded.retried,
    failed = excluded.failed, leases_lost = excluded.leases_lost,
    leases_refused = excluded.leases_refused
