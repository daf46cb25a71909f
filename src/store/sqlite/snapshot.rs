//! A snapshot of the file: a connection of its own with an open read transaction.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use super::connection::open_reader;
use super::failure::SqliteFailure;
use super::group::Totals;
use super::lock::ServerLock;
use super::rows::{self, OrderCount};
use super::{damage, feed, query, vitals};
use crate::lease::NodeId;
use crate::order::OrderId;
use crate::store::clock::SteadyClock;
use crate::store::columns::{EVENT_COLUMNS, EVENT_COLUMNS_COUNT, ORDER_COLUMNS, order_columns};
use crate::store::snapshot::{
    EventRecord, FeedState, KeyName, KeyRecord, LeaseRecord, OrderRecord, Snapshot, StartRule,
};
use crate::store::{Counters, FEED_EVENTS_MAX, QueueState, StoreError, Vitals};
use crate::time::Timestamp;

pub(super) struct SqliteSnapshot {
    connection: Arc<Mutex<Connection>>,
    clock: Arc<SteadyClock>,
    /// Set if no server may open the file while the snapshot lives.
    _server_lock: Option<ServerLock>,
}

impl SqliteSnapshot {
    pub fn begin(connection: Connection, clock: Arc<SteadyClock>) -> Result<SqliteSnapshot, rusqlite::Error> {
        // The first read fixes the transaction's view, not `begin`.
        connection.execute_batch("begin; select 1 from sqlite_schema limit 1")?;
        Ok(SqliteSnapshot {
            connection: Arc::new(Mutex::new(connection)),
            clock,
            _server_lock: None,
        })
    }

    /// Begins a snapshot on a new connection.
    pub async fn open(path: Arc<Path>, clock: Arc<SteadyClock>) -> Result<SqliteSnapshot, StoreError> {
        let unexpected = |source: anyhow::Error| StoreError::Unexpected {
            attempted: "open a snapshot",
            source,
        };
        let begin = move || SqliteSnapshot::begin(open_reader(&path)?, clock);
        match tokio::task::spawn_blocking(begin).await {
            Ok(snapshot) => snapshot.map_err(|error| unexpected(error.into())),
            Err(panicked) => Err(unexpected(panicked.into())),
        }
    }

    /// Keeps servers away while the snapshot lives.
    pub fn with_lock(self, server_lock: ServerLock) -> SqliteSnapshot {
        SqliteSnapshot {
            _server_lock: Some(server_lock),
            ..self
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        attempted: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.connection.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let connection = connection
                .lock()
                .expect("a query that panicked ends the snapshot's use");
            query(&connection)
        })
        .await;
        match answer {
            Ok(result) => result.map_err(|error| SqliteFailure::of(&error).to_error(attempted)),
            Err(panicked) => Err(StoreError::Unexpected {
                attempted,
                source: panicked.into(),
            }),
        }
    }
}

#[async_trait]
impl Snapshot for SqliteSnapshot {
    async fn orders_after(
        &mut self,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        self.read("read orders of a snapshot", move |connection| {
            orders_after(connection, after, limit)
        })
        .await
    }

    async fn events_after(
        &mut self,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<EventRecord>, StoreError> {
        self.read("read the feed of a snapshot", move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "select {EVENT_COLUMNS}, position, passed_over from events where position > ?1 order by position limit ?2"
            ))?;
            let records = statement.query_map((after.unwrap_or(0), limit.min(FEED_EVENTS_MAX)), |row| {
                Ok(EventRecord {
                    position: row.get(EVENT_COLUMNS_COUNT)?,
                    event: rows::event(row)?,
                    passed_over: passed_over(row)?,
                })
            })?;
            records.collect()
        })
        .await
    }

    async fn keys_after(
        &mut self,
        after: Option<KeyName>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        self.read("read keys of a snapshot", move |connection| {
            keys_after(connection, after, limit)
        })
        .await
    }

    async fn last_order_id(&mut self) -> Result<OrderId, StoreError> {
        self.read("read the last order id of a snapshot", |connection| {
            Ok(OrderId(Totals::read(connection)?.last_order_id))
        })
        .await
    }

    async fn has_orders(&mut self, ids: &[OrderId]) -> Result<bool, StoreError> {
        let ids = ids.to_vec();
        self.read("look for orders in a snapshot", move |connection| {
            let mut exists = connection.prepare_cached("select 1 from orders where order_id = ?1")?;
            for id in ids {
                if !exists.exists([id])? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// Zero, because one writer stores all orders and reads the clock once per transaction.
    fn accept_time_max(&self) -> Duration {
        Duration::ZERO
    }

    async fn start_rule(&mut self) -> Result<StartRule, StoreError> {
        self.read("read the rule of a snapshot's starts", |connection| {
            let totals = Totals::read(connection)?;
            Ok(StartRule {
                ordering: totals.ordering,
                from: OrderId(totals.ordering_from),
            })
        })
        .await
    }

    async fn passed_over(&mut self) -> Result<HashSet<OrderId>, StoreError> {
        self.read("read what claims of a snapshot passed over", |connection| {
            connection
                .prepare_cached(
                    "select distinct passed.value from events, json_each(events.passed_over) as passed
                     where events.passed_over is not null",
                )?
                .query_map([], |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// None, because a file is opened with durable settings or not at all.
    async fn weaknesses(&mut self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn read_at(&mut self) -> Result<Timestamp, StoreError> {
        Ok(self.clock.now())
    }

    async fn counters(&mut self) -> Result<Counters, StoreError> {
        self.read("read counters of a snapshot", |connection| {
            Ok(Totals::read(connection)?.counters)
        })
        .await
    }

    async fn queue(&mut self) -> Result<QueueState, StoreError> {
        let now = self.clock.now();
        self.read("read the queue of a snapshot", move |connection| {
            query::queue(connection, now)
        })
        .await
    }

    async fn vitals(&mut self) -> Result<Vitals, StoreError> {
        let now = self.clock.now();
        self.read("read the vitals of a snapshot", move |connection| {
            vitals::vitals(connection, now)
        })
        .await
    }

    /// Nothing waits, because an event gets its position in the transaction that writes it.
    async fn feed(&mut self) -> Result<FeedState, StoreError> {
        self.read("read the state of the feed of a snapshot", |connection| {
            Ok(FeedState {
                bounds: feed::bounds(connection)?,
                waiting: None,
            })
        })
        .await
    }

    async fn only_reads(&mut self) -> Result<Option<String>, StoreError> {
        self.read("check whether a file can be written", |connection| {
            let only_reads = connection.is_readonly("main")?;
            Ok(only_reads.then(|| "the file cannot be written".to_owned()))
        })
        .await
    }

    async fn damage(&mut self) -> Result<Vec<String>, StoreError> {
        self.read("check the file of a snapshot", damage::find).await
    }
}

fn orders_after(
    connection: &Connection,
    after: Option<OrderId>,
    limit: usize,
) -> Result<Vec<OrderRecord>, rusqlite::Error> {
    let after = after.unwrap_or(OrderId(i64::MIN));
    let mut records = connection
        .prepare_cached(concat!(
            "select ",
            order_columns!(),
            ", crashes, node, fence, lease_expires_at, outside, handed_out, status = 0 and turn is 2 from orders
             where order_id > ?1 order by order_id limit ?2"
        ))?
        .query_map((after, limit), |row| {
            let node: Option<NodeId> = row.get(ORDER_COLUMNS + 1)?;
            let fence: u64 = row.get(ORDER_COLUMNS + 2)?;
            let expires_at = row.get::<_, Option<_>>(ORDER_COLUMNS + 3)?;
            let external = row.get(ORDER_COLUMNS + 4)?;
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
                handed_out: row.get(ORDER_COLUMNS + 5)?,
                crashes: row.get(ORDER_COLUMNS)?,
                set_aside: row.get(ORDER_COLUMNS + 6)?,
                lease: Option::zip(node, expires_at).map(lease),
                events: Vec::new(),
            })
        })?
        .collect::<Result<Vec<_>, _>>()?;
    for record in &mut records {
        record.events = events_of(connection, record.order.order_id)?;
    }
    Ok(records)
}

fn events_of(connection: &Connection, order_id: OrderId) -> Result<Vec<EventRecord>, rusqlite::Error> {
    connection
        .prepare_cached(&format!(
            "select {EVENT_COLUMNS}, position, passed_over from events indexed by events_order
             where order_id = ?1 order by version"
        ))?
        .query_map([order_id], |row| {
            Ok(EventRecord {
                event: rows::event(row)?,
                position: row.get(EVENT_COLUMNS_COUNT)?,
                passed_over: passed_over(row)?,
            })
        })?
        .collect()
}

/// The orders that the claim of a `started` event passed over. The column holds a JSON array.
fn passed_over(row: &Row<'_>) -> Result<Vec<OrderId>, rusqlite::Error> {
    let column = EVENT_COLUMNS_COUNT + 1;
    let Some(text) = row.get::<_, Option<String>>(column)? else {
        return Ok(Vec::new());
    };
    let ids: Vec<i64> = serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into()))?;
    Ok(ids.into_iter().map(OrderId).collect())
}

fn keys_after(
    connection: &Connection,
    after: Option<KeyName>,
    limit: usize,
) -> Result<Vec<KeyRecord>, rusqlite::Error> {
    let (scope, key) = after.unwrap_or_default();
    connection
        .prepare_cached(
            "select scope, key, first_order_id, order_count, fingerprint, created_at from idempotency_keys
             where (scope, key) > (?1, ?2) order by scope, key limit ?3",
        )?
        .query_map((scope, key, limit), |row| {
            let (first, count): (i64, i64) = (row.get(2)?, row.get(3)?);
            // A damaged count could exceed memory. Zero orders are also reported as an error.
            let count = if OrderCount::is_possible(count) { count } else { 0 };
            Ok(KeyRecord {
                scope: row.get(0)?,
                key: row.get(1)?,
                order_ids: (first..first.saturating_add(count)).map(OrderId).collect(),
                fingerprint: row.get(4)?,
                created_at: row.get(5)?,
            })
        })?
        .collect()
}

/// The time of the newest event; `None` if there is none. The clock of the store must not start earlier.
pub(super) fn newest_time(connection: &Connection) -> Result<Option<Timestamp>, rusqlite::Error> {
    connection
        .query_row(
            "select at from events order by position desc limit 1",
            [],
            |row| row.get(0),
        )
        .optional()
}
