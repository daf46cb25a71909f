-- Client sessions of this database with a transaction older than $1 microseconds, or that statements on the orders' tables have
-- waited for as long as $2: the $3 oldest. A statement that waits has locked a table or waits for one. The server shows the age of
-- a transaction only to roles with rights over its session.
with waiting as materialized (
    select unnest(pg_blocking_pids(wanted.pid)) as holder
    from (
        select distinct pid from pg_locks
        where not granted and waitstart < clock_timestamp() - $2::int8 * interval '1 microsecond'
    ) as wanted
    where exists (
        select from pg_locks as lock
        join pg_class as class on class.oid = lock.relation
        join pg_namespace as namespace on namespace.oid = class.relnamespace
        where lock.pid = wanted.pid and namespace.nspname = 'orderly'
            and lock.database = (select oid from pg_database where datname = current_database()))
), blocked as materialized (
    select holder, count(*) as sessions from waiting group by holder
)
select session.pid, session.usename::text, session.application_name,
    extract(epoch from clock_timestamp() - session.xact_start)::int8,
    session.state like 'idle in transaction%', coalesce(blocked.sessions, 0)
from pg_stat_activity as session left join blocked on blocked.holder = session.pid
where session.datname = current_database() and session.pid <> pg_backend_pid() and session.backend_type = 'client backend'
    and (session.xact_start < clock_timestamp() - $1::int8 * interval '1 microsecond' or blocked.holder is not null)
order by coalesce(blocked.sessions, 0) desc, session.xact_start nulls last, session.pid
limit $3
