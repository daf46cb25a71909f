-- The kind of rows that the database holds already, null when it is empty, and the last place in the feed ever given out.
select
    case
        when exists (select from orderly.orders) then 'orders'
        when exists (select from orderly.batches) then 'events'
        when exists (select from orderly.idempotency_keys) then 'idempotency keys'
        when exists (select from orderly.nodes) then 'nodes'
    end,
    last_position
from orderly.queue
