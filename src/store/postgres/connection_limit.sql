-- The number of connections that the settings allow this user in this database, and the setting that limits them; no row
-- without a limit. Only the limit of the server applies to superusers.
select allowed, setting
from (
    select current_setting('max_connections')::int - case
            when rolsuper then 0
            else current_setting('superuser_reserved_connections')::int
                + coalesce(current_setting('reserved_connections', true)::int, 0)
        end,
        'max_connections less what is reserved'
    from pg_roles where rolname = session_user
    union all
    select rolconnlimit, 'the connection limit of this role'
    from pg_roles where rolname = session_user and not rolsuper and rolconnlimit >= 0
    union all
    select datconnlimit, 'the connection limit of this database'
    from pg_database, pg_roles
    where datname = current_database() and rolname = session_user and not rolsuper and datconnlimit >= 0
) as limits (allowed, setting)
order by allowed limit 1
