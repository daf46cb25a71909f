-- Orders that others of their user wait for, how many wait, whether the order's next attempt is not due yet, and whether it is set
-- aside, among the $1 that have waited longest: the $2 that most wait for.
select first.order_id, state.status, waiting.orders,
    exists (select from orderly.second_line as l where l.order_id = first.order_id and l.due_at > (select clock_timestamp())),
    state.set_aside
from (
    select user_id, count(*) as orders
    from (select user_id from orderly.blocked order by since, order_id limit $1) as longest
    group by user_id order by count(*) desc, user_id limit $2
) as waiting
cross join lateral (
    select least(
        (select min(t.order_id) from orderly.turns as t
        where t.user_id = waiting.user_id and (
            exists (select from orderly.first_line as l where l.order_id = t.order_id offset 0)
            or exists (select from orderly.second_line as l where l.order_id = t.order_id offset 0)
            or exists (select from orderly.leases as l where l.order_id = t.order_id offset 0))),
        (select min(f.order_id) from orderly.failed as f, orderly.queue as queue
        where f.user_id = waiting.user_id and queue.ordering in (2, 4)),
        (select min(s.order_id) from orderly.set_aside as s, orderly.queue as queue
        where s.user_id = waiting.user_id and queue.ordering in (1, 2))) as order_id
) as first
join orderly.order_state as state on state.order_id = first.order_id
order by waiting.orders desc, first.order_id
