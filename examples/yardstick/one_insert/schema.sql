-- The table of a service that inserts one order per request: what most would write, with one index. In a schema of its
-- own, whatever the search path of the server is.
create schema bench;
create table bench.orders (
    order_id bigint generated always as identity primary key,
    user_id bigint not null,
    item_ids text not null,
    total_amount double precision not null,
    status text not null default 'Pending',
    created_at timestamptz not null default now()
);
create index orders_status on bench.orders (status, order_id);
