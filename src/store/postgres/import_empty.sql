-- Reads the kind of rows that the database already holds, null when it is empty, and the last feed position given out.
select
    case
        when exists (select from orderly.orders) then 'orders'
        when exists (select from orderly.batches) then 'events'
        when exists (select from orderly.idempotency_keys) then 'idempotency keys'
        when exists (select from orderly.nodes) then 'nodes'
    end,
    last_position
from orderly.queue
