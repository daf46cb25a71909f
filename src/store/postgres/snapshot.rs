//! The whole database at one instant, over a connection of its own with an open read transaction.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::await_answer::{await_answer, await_answer_within};
use super::class_pool::ReadSource;
use super::connect::{Connection, Connector, Parameters};
use super::connection_share;
use super::durability::Durability;
use super::failure::{PgFailure, to_store_result};
use super::id_range::ACCEPT_TIME_MAX;
use super::lower_bound::LowerBound;
use super::query;
use super::rows;
use super::shared::Shared;
use super::standbys;
use super::vitals;
use crate::order::OrderId;
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::snapshot::{
    ConnectionBudget, EventRecord, FEED_WAITING_MAX, FeedState, FeedWaiting, KeyName, KeyRecord, LeaseRecord,
    OrderRecord, Snapshot, Standbys, StartRule,
};
use crate::store::vitals::LongTransaction;
use crate::store::{Counters, FeedBounds, FeedPosition, QueueState, StoreError, Vitals};
use crate::time::Timestamp;

mod events;

/// The limit for one statement: some read the whole database.
const ANSWER_TIME_MAX: Duration = Duration::from_mins(10);

pub(super) struct PostgresSnapshot {
    connection: Connection,
}

impl PostgresSnapshot {
    /// Opens a snapshot for a call of the store.
    pub async fn of(connector: &Connector, shared: &Shared) -> Result<PostgresSnapshot, StoreError> {
        if shared.closing.is_cancelled() {
            return Err(StoreError::Closed);
        }
        let opened = async { PostgresSnapshot::open(connector.connect_to_read().await?).await };
        to_store_result(opened.await, "open a snapshot")
    }

    pub async fn open(connection: Connection) -> Result<PostgresSnapshot, PgFailure> {
        // The first read fixes the transaction's view, not its beginning.
        let begin = "begin isolation level repeatable read read only; select 1";
        await_answer(connection.client.batch_execute(begin)).await?;
        Ok(PostgresSnapshot { connection })
    }

    /// Makes a view of committed data and of what the connection's own transaction has written.
    pub fn within(connection: Connection) -> PostgresSnapshot {
        PostgresSnapshot { connection }
    }

    pub async fn run(&self, statements: &str) -> Result<(), PgFailure> {
        await_answer_within(ANSWER_TIME_MAX, self.connection.client.batch_execute(statements)).await
    }
}

impl ReadSource for PostgresSnapshot {
    async fn read(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, PgFailure> {
        let answer = self.connection.client.query_typed(statement, parameters);
        let answer = await_answer_within(ANSWER_TIME_MAX, answer).await;
        answer.map_err(PgFailure::while_reading)
    }
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
    async fn orders_after(
        &mut self,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        let records = orders_after(self, after, limit).await;
        records.map_err(|failure| failure.to_error("read orders of a snapshot"))
    }

    async fn events_after(
        &mut self,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let records = events::after(self, after.unwrap_or(0), limit).await;
        records.map_err(|failure| failure.to_error("read the feed of a snapshot"))
    }

    async fn keys_after(
        &mut self,
        after: Option<KeyName>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        let records = keys_after(self, after, limit).await;
        records.map_err(|failure| failure.to_error("read keys of a snapshot"))
    }

    async fn last_order_id(&mut self) -> Result<OrderId, StoreError> {
        let last = last_order_id(self).await;
        last.map_err(|failure| failure.to_error("read the last order id of a snapshot"))
    }

    async fn has_orders(&mut self, ids: &[OrderId]) -> Result<bool, StoreError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        let found = self
            .read(
                "select bool_and(exists (select from orderly.orders where order_id = id)) from unnest($1::int8[]) as id",
                &[(&ids, Type::INT8_ARRAY)],
            )
            .await;
        let all = found.and_then(|found| rows::column::<Option<bool>>(rows::only(&found)?, 0));
        all.map(|all| all.unwrap_or(true))
            .map_err(|failure| failure.to_error("look for orders in a snapshot"))
    }

    fn accept_time_max(&self) -> Duration {
        ACCEPT_TIME_MAX
    }

    async fn start_rule(&mut self) -> Result<StartRule, StoreError> {
        let rule = start_rule(self).await;
        rule.map_err(|failure| failure.to_error("read the rule of a snapshot's starts"))
    }

    async fn passed_over(&mut self) -> Result<HashSet<OrderId>, StoreError> {
        let passed_over = passed_over(self).await;
        passed_over.map_err(|failure| failure.to_error("read the passed-over orders of a snapshot"))
    }

    async fn weaknesses(&mut self) -> Result<Vec<String>, StoreError> {
        let settings = async {
            let found = self.read(include_str!("settings.sql"), &[]).await?;
            let row = rows::only(&found)?;
            Ok(Durability::read(|index| rows::column(row, 3 + index))?.weaknesses())
        };
        settings
            .await
            .map_err(|failure: PgFailure| failure.to_error("read the settings of the database"))
    }

    async fn standbys(&mut self) -> Result<Option<Standbys>, StoreError> {
        let found = standbys::standbys(self).await;
        found.map_err(|failure| failure.to_error("look for the standbys of the database"))
    }

    async fn read_at(&mut self) -> Result<Timestamp, StoreError> {
        let found = self.read("select clock_timestamp()", &[]).await;
        found
            .and_then(|found| rows::column(rows::only(&found)?, 0))
            .map_err(|failure| failure.to_error("read the time of the database"))
    }

    async fn counters(&mut self) -> Result<Counters, StoreError> {
        let counters = query::counters(self).await;
        counters.map_err(|failure| failure.to_error("read counters of a snapshot"))
    }

    async fn queue(&mut self) -> Result<QueueState, StoreError> {
        let queue = query::queue(self, &LowerBound::default()).await;
        queue.map_err(|failure| failure.to_error("read the queue of a snapshot"))
    }

    async fn vitals(&mut self) -> Result<Vitals, StoreError> {
        let vitals = vitals::vitals(self, &LowerBound::default()).await;
        vitals.map_err(|failure| failure.to_error("read the vitals of a snapshot"))
    }

    async fn transactions(&mut self) -> Result<Vec<LongTransaction>, StoreError> {
        let transactions = vitals::transactions(self).await;
        transactions.map_err(|failure| failure.to_error("read the sessions of the database"))
    }

    async fn feed(&mut self) -> Result<FeedState, StoreError> {
        let feed = feed(self).await;
        feed.map_err(|failure| failure.to_error("read the state of the feed of a snapshot"))
    }

    async fn only_reads(&mut self) -> Result<Option<String>, StoreError> {
        let reason = standbys::takes_no_writes(self).await;
        reason.map_err(|failure| failure.to_error("look whether a server takes writes"))
    }

    async fn connection_budget(&mut self) -> Result<Option<ConnectionBudget>, StoreError> {
        let budget = connection_share::connection_limit(self).await;
        budget.map_err(|failure| failure.to_error("read how many connections are allowed"))
    }

    async fn damage(&mut self) -> Result<Vec<String>, StoreError> {
        let damage = damage(self).await;
        damage.map_err(|failure| failure.to_error("check the tables of a snapshot"))
    }
}

async fn feed(source: &impl ReadSource) -> Result<FeedState, PgFailure> {
    let limit = i64::try_from(FEED_WAITING_MAX).expect("the limit is a small number");
    let found = source
        .read(include_str!("feed_state.sql"), &[(&limit, Type::INT8)])
        .await?;
    let row = rows::only(&found)?;
    let transactions = rows::large_count(row, 2)?;
    let waited: Option<i64> = rows::column(row, 3)?;
    let waiting = FeedWaiting {
        transactions,
        oldest_age: Duration::from_micros(waited.unwrap_or(0).max(0).cast_unsigned()),
    };
    Ok(FeedState {
        bounds: FeedBounds {
            epochs: super::epochs::read(source).await?,
            complete_after: FeedPosition(rows::column(row, 0)?),
            last: FeedPosition(rows::column(row, 1)?),
        },
        waiting: (transactions > 0).then_some(waiting),
    })
}

/// Finds damage that no single order shows: rows without an order, numbers that would be given out twice, a feed with
/// gaps.
async fn damage(source: &impl ReadSource) -> Result<Vec<String>, PgFailure> {
    let found = source.read(include_str!("damage.sql"), &[]).await?;
    found.iter().map(|row| rows::column(row, 0)).collect()
}

async fn start_rule(source: &impl ReadSource) -> Result<StartRule, PgFailure> {
    let found = source
        .read("select ordering, ordering_from from orderly.queue", &[])
        .await?;
    let row = rows::only(&found)?;
    Ok(StartRule {
        ordering: rows::ordering(row, 0)?,
        from: OrderId(rows::column(row, 1)?),
    })
}

async fn passed_over(source: &impl ReadSource) -> Result<HashSet<OrderId>, PgFailure> {
    let found = source
        .read(
            "select distinct unnest(passed_over) from orderly.batches where passed_over is not null",
            &[],
        )
        .await?;
    found
        .iter()
        .map(|row| rows::column(row, 0).map(OrderId))
        .collect()
}

async fn orders_after(
    source: &impl ReadSource,
    after: Option<OrderId>,
    limit: usize,
) -> Result<Vec<OrderRecord>, PgFailure> {
    let after = after.map_or(i64::MIN, |after| after.0);
    let limit = rows::limit(limit);
    let found = source
        .read(
            concat!(
                "select ",
                order_columns!(),
                ", crashes, node, fence, lease_expires_at, outside, handed_out, set_aside from orderly.order_state
                 where order_id > $1 order by order_id limit $2"
            ),
            &[(&after, Type::INT8), (&limit, Type::INT8)],
        )
        .await?;
    let mut records = found.iter().map(record).collect::<Result<Vec<_>, _>>()?;
    let order_ids: Vec<i64> = records.iter().map(|record| record.order.order_id.0).collect();
    let mut events = events::of(source, &order_ids).await?;
    for record in &mut records {
        record.events = events.remove(&record.order.order_id).unwrap_or_default();
    }
    Ok(records)
}

fn record(row: &Row) -> Result<OrderRecord, PgFailure> {
    let node = rows::column::<Option<i64>>(row, ORDER_COLUMNS + 1)?.map(rows::node_of);
    let fence = rows::large_count(row, ORDER_COLUMNS + 2)?;
    let expires_at = rows::column::<Option<_>>(row, ORDER_COLUMNS + 3)?;
    let external = rows::column(row, ORDER_COLUMNS + 4)?;
    let lease = |(node, expires_at)| LeaseRecord {
        node,
        fence,
        expires_at,
        external,
    };
    Ok(OrderRecord {
        order: rows::order(row)?,
        fence,
        node,
        handed_out: rows::column(row, ORDER_COLUMNS + 5)?,
        lease: Option::zip(node, expires_at).map(lease),
        crashes: rows::count(row, ORDER_COLUMNS)?,
        set_aside: rows::column(row, ORDER_COLUMNS + 6)?,
        events: Vec::new(),
    })
}

async fn last_order_id(source: &impl ReadSource) -> Result<OrderId, PgFailure> {
    let found = source
        .read(
            "select case when is_called then last_value else 0 end from orderly.order_ids",
            &[],
        )
        .await?;
    Ok(OrderId(rows::column(rows::only(&found)?, 0)?))
}

async fn keys_after(
    source: &impl ReadSource,
    after: Option<KeyName>,
    limit: usize,
) -> Result<Vec<KeyRecord>, PgFailure> {
    let (scope, key) = after.unwrap_or_default();
    let limit = rows::limit(limit);
    let found = source
        .read(
            "select scope, key, fingerprint, order_ids, created_at from orderly.idempotency_keys
             where (scope, key) > ($1, $2) order by scope, key limit $3",
            &[(&scope, Type::TEXT), (&key, Type::TEXT), (&limit, Type::INT8)],
        )
        .await?;
    let key = |row| {
        let fingerprint: &[u8] = rows::column(row, 2)?;
        let order_ids: Vec<i64> = rows::column(row, 3)?;
        Ok(KeyRecord {
            scope: rows::column(row, 0)?,
            key: rows::column(row, 1)?,
            fingerprint: fingerprint
                .try_into()
                .map_err(|_| PgFailure::undecodable("a fingerprint", fingerprint.len()))?,
            order_ids: order_ids.into_iter().map(OrderId).collect(),
            created_at: rows::column(row, 4)?,
        })
    };
    found.iter().map(key).collect()
}
