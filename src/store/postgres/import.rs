//! Fills an empty database with the contents of another store, in one transaction over one connection: all or nothing
//! is stored. `store/copy.rs` chooses what is written and compares it.

use std::collections::HashSet;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::class_pool::ReadSource;
use super::commands::{connect_once, refused};
use super::connect::unavailable;
use super::connect::{Connection, Parameters};
use super::failure::PgFailure;
use super::rows;
use super::schema;
use super::snapshot::PostgresSnapshot;
use crate::config::PostgresDatabase;
use crate::money::Currency;
use crate::order::{MilestoneName, OrderId, Reason, Reference};
use crate::portable_json::JsonText;
use crate::store::error::CopyError;
use crate::store::snapshot::{EVERY_EARLIER, EventRecord, KeyRecord, OrderRecord};
use crate::store::{Counters, Epochs, Pause, Snapshot, StoreError, codes};

/// An import under way. Dropping it rolls everything back.
pub(in crate::store) struct Import {
    snapshot: PostgresSnapshot,
    /// The last feed position given out before the import.
    complete_after: i64,
    /// The last feed position given out.
    last_position: i64,
}

impl Import {
    /// Migrates the schema, locks other writers out, and checks that the database is empty. Fails with
    /// [`CopyError::NotEmpty`] otherwise.
    pub async fn begin(database: &PostgresDatabase) -> Result<Import, CopyError> {
        let location = &database.url.location;
        let connection = connect_once(database.direct.as_ref().unwrap_or(&database.url)).await?;
        refused(schema::apply(&connection.client, location).await, location)?;
        let begun = begin(connection).await;
        let (found, import) = begun.map_err(|failure| unavailable(location, &failure))?;
        match found {
            None => Ok(import),
            Some(found) => Err(CopyError::NotEmpty {
                location: location.clone(),
                found,
            }),
        }
    }

    /// Writes orders. Their events must be written before.
    pub async fn write_orders(&self, records: &[OrderRecord]) -> Result<(), StoreError> {
        let orders = || records.iter().map(|record| &record.order);
        let requests = || orders().map(|order| &order.request);
        let order_ids: Vec<i64> = orders().map(|order| order.order_id.0).collect();
        let statuses: Vec<i16> = orders().map(|order| codes::status_code(order.status)).collect();
        let versions: Vec<i32> = orders().map(|order| count(order.version)).collect();
        let attempts: Vec<i32> = orders().map(|order| count(order.attempts)).collect();
        let generations: Vec<i32> = orders().map(|order| count(order.generation)).collect();
        let crashes: Vec<i32> = records.iter().map(|record| count(record.crashes)).collect();
        let fences: Vec<i64> = records
            .iter()
            .map(|record| rows::fence_code(record.fence))
            .collect();
        let nodes: Vec<Option<i64>> = records
            .iter()
            .map(|record| record.node.map(rows::node_code))
            .collect();
        let leases: Vec<_> = records
            .iter()
            .map(|record| record.lease.map(|lease| lease.expires_at))
            .collect();
        let created_at: Vec<_> = orders().map(|order| order.created_at).collect();
        let changed_at: Vec<_> = records
            .iter()
            .map(|record| {
                let latest = record.events.last();
                latest.map_or(record.order.created_at, |latest| latest.event.at)
            })
            .collect();
        let processing_at: Vec<_> = orders().map(|order| order.processing_at).collect();
        let finished_at: Vec<_> = orders().map(|order| order.finished_at).collect();
        let due_at: Vec<_> = orders().map(|order| order.next_attempt_at).collect();
        let user_ids: Vec<i64> = requests().map(|request| request.user_id.key()).collect();
        let user_names: Vec<Option<&str>> = requests().map(|request| request.user_id.name()).collect();
        let amounts: Vec<i64> = requests()
            .map(|request| request.total_amount.minor_units())
            .collect();
        let currencies: Vec<Option<&str>> = requests()
            .map(|request| request.currency.map(Currency::code))
            .collect();
        let item_ids: Vec<&str> = requests().map(|request| request.items.codes()).collect();
        let lines: Vec<Option<&str>> = requests().map(|request| request.items.lines()).collect();
        let references: Vec<Option<&str>> = requests()
            .map(|request| request.reference.as_ref().map(Reference::as_str))
            .collect();
        let errors: Vec<Option<&str>> = orders().map(|order| order.last_error.as_deref()).collect();
        let metadata: Vec<Option<&str>> = requests().map(|request| request.metadata.as_deref()).collect();
        let results: Vec<Option<&str>> = orders()
            .map(|order| order.result.as_ref().map(JsonText::as_str))
            .collect();
        let outside: Vec<bool> = records
            .iter()
            .map(|record| record.lease.is_some_and(|lease| lease.external))
            .collect();
        let handed_out: Vec<bool> = records.iter().map(|record| record.handed_out).collect();
        let start_after: Vec<_> = requests().map(|request| request.start_after).collect();
        let held_at: Vec<_> = orders().map(|order| order.held_at).collect();
        let hold_reasons: Vec<Option<&str>> = requests()
            .map(|request| Some(request.hold.as_ref()?.reason.as_ref()?.as_str()))
            .collect();
        let milestones: Vec<Option<&str>> = orders()
            .map(|order| order.milestone.as_ref().map(MilestoneName::as_str))
            .collect();
        let deadlines: Vec<_> = requests().map(|request| request.deadline).collect();
        let overdue: Vec<bool> = orders().map(|order| order.overdue).collect();
        let set_aside: Vec<bool> = records.iter().map(|record| record.set_aside).collect();
        self.write(
            include_str!("import_orders.sql"),
            &[
                (&order_ids, Type::INT8_ARRAY),
                (&statuses, Type::INT2_ARRAY),
                (&versions, Type::INT4_ARRAY),
                (&attempts, Type::INT4_ARRAY),
                (&generations, Type::INT4_ARRAY),
                (&crashes, Type::INT4_ARRAY),
                (&fences, Type::INT8_ARRAY),
                (&nodes, Type::INT8_ARRAY),
                (&leases, Type::TIMESTAMPTZ_ARRAY),
                (&created_at, Type::TIMESTAMPTZ_ARRAY),
                (&changed_at, Type::TIMESTAMPTZ_ARRAY),
                (&processing_at, Type::TIMESTAMPTZ_ARRAY),
                (&finished_at, Type::TIMESTAMPTZ_ARRAY),
                (&due_at, Type::TIMESTAMPTZ_ARRAY),
                (&user_ids, Type::INT8_ARRAY),
                (&amounts, Type::INT8_ARRAY),
                (&item_ids, Type::TEXT_ARRAY),
                (&references, Type::TEXT_ARRAY),
                (&errors, Type::TEXT_ARRAY),
                (&metadata, Type::TEXT_ARRAY),
                (&results, Type::TEXT_ARRAY),
                (&outside, Type::BOOL_ARRAY),
                (&handed_out, Type::BOOL_ARRAY),
                (&user_names, Type::TEXT_ARRAY),
                (&currencies, Type::TEXT_ARRAY),
                (&lines, Type::TEXT_ARRAY),
                (&start_after, Type::TIMESTAMPTZ_ARRAY),
                (&held_at, Type::TIMESTAMPTZ_ARRAY),
                (&hold_reasons, Type::TEXT_ARRAY),
                (&set_aside, Type::BOOL_ARRAY),
                (&milestones, Type::TEXT_ARRAY),
                (&deadlines, Type::TIMESTAMPTZ_ARRAY),
                (&overdue, Type::BOOL_ARRAY),
            ],
        )
        .await
    }

    /// Writes the next events of the feed; all events come before the orders. They get consecutive positions, without
    /// the gaps of the source.
    pub async fn write_events(&mut self, records: &[EventRecord]) -> Result<(), StoreError> {
        let events = || records.iter().map(|record| &record.event);
        let order_ids: Vec<i64> = events().map(|event| event.order_id.0).collect();
        let versions: Vec<i32> = events().map(|event| count(event.version)).collect();
        let kinds: Vec<i16> = events().map(|event| codes::kind_code(event.kind)).collect();
        let times: Vec<_> = events().map(|event| event.at).collect();
        let attempts: Vec<i32> = events().map(|event| count(event.attempt)).collect();
        let nodes: Vec<Option<i64>> = events().map(|event| event.node.map(rows::node_code)).collect();
        let errors: Vec<Option<&str>> = events().map(|event| event.error.as_deref()).collect();
        let details: Vec<Option<String>> = events().map(rows::stored_detail).collect();
        let passed_over: Vec<Option<String>> = records
            .iter()
            .map(|record| (!record.passed_over.is_empty()).then(|| array_text(&record.passed_over)))
            .collect();
        let first_position = self.last_position + 1;
        self.write(
            include_str!("import_events.sql"),
            &[
                (&first_position, Type::INT8),
                (&runs(records), Type::INT4_ARRAY),
                (&order_ids, Type::INT8_ARRAY),
                (&versions, Type::INT4_ARRAY),
                (&kinds, Type::INT2_ARRAY),
                (&times, Type::TIMESTAMPTZ_ARRAY),
                (&attempts, Type::INT4_ARRAY),
                (&nodes, Type::INT8_ARRAY),
                (&errors, Type::TEXT_ARRAY),
                (&passed_over, Type::TEXT_ARRAY),
                (&details, Type::TEXT_ARRAY),
            ],
        )
        .await?;
        self.last_position += rows::limit(records.len());
        Ok(())
    }

    /// Writes idempotency keys.
    pub async fn write_keys(&self, records: &[KeyRecord]) -> Result<(), StoreError> {
        let scopes: Vec<&str> = records.iter().map(|record| record.scope.as_str()).collect();
        let keys: Vec<&str> = records.iter().map(|record| record.key.as_str()).collect();
        let fingerprints: Vec<&[u8]> = records.iter().map(|record| &record.fingerprint[..]).collect();
        let order_ids: Vec<String> = records
            .iter()
            .map(|record| array_text(&record.order_ids))
            .collect();
        let created_at: Vec<_> = records.iter().map(|record| record.created_at).collect();
        self.write(
            include_str!("import_keys.sql"),
            &[
                (&scopes, Type::TEXT_ARRAY),
                (&keys, Type::TEXT_ARRAY),
                (&fingerprints, Type::BYTEA_ARRAY),
                (&order_ids, Type::TEXT_ARRAY),
                (&created_at, Type::TIMESTAMPTZ_ARRAY),
            ],
        )
        .await
    }

    /// Writes the counters and the state of the queue, and updates the planner's statistics, since what was written
    /// is large and new.
    pub async fn write_numbers(
        &self,
        counters: &Counters,
        pause: Option<&Pause>,
        ordering_from: OrderId,
    ) -> Result<(), StoreError> {
        let numbers = [
            counters.pending,
            counters.processing,
            counters.completed,
            counters.failed,
            counters.cancelled,
            counters.processing_micros,
            counters.held,
            counters.scheduled,
        ]
        .map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        let [
            pending,
            processing,
            completed,
            failed,
            cancelled,
            processing_micros,
            held,
            scheduled,
        ] = &numbers;
        self.write(
            "update orderly.counters set pending = $1, processing = $2, completed = $3, failed = $4, cancelled = $5,
                 processing_micros = $6, held = $7, scheduled = $8
             where slot = 0",
            &[
                (pending, Type::INT8),
                (processing, Type::INT8),
                (completed, Type::INT8),
                (failed, Type::INT8),
                (cancelled, Type::INT8),
                (processing_micros, Type::INT8),
                (held, Type::INT8),
                (scheduled, Type::INT8),
            ],
        )
        .await?;
        let reason = pause.and_then(|pause| pause.reason.as_ref()).map(Reason::as_str);
        self.write(
            "update orderly.queue set paused = $5::timestamptz is not null, paused_at = $5, pause_reason = $1, complete_after = $2,
                 last_position = $3, ordering = 0, ordering_from = $4",
            &[
                (&reason, Type::TEXT),
                (&self.complete_after, Type::INT8),
                (&self.last_position, Type::INT8),
                (&ordering_from.0, Type::INT8),
                (&pause.map(|pause| pause.at), Type::TIMESTAMPTZ),
            ],
        )
        .await?;
        // A server with another ordering may have left these.
        self.write("delete from orderly.turns", &[]).await?;
        self.write("delete from orderly.unseen", &[]).await?;
        let analyze = "analyze orderly.orders, orderly.history, orderly.first_line, orderly.second_line, orderly.leases,
            orderly.failed, orderly.cancelled, orderly.overdue, orderly.deadlines, orderly.batches, orderly.idempotency_keys";
        self.write(analyze, &[]).await
    }

    /// Writes the epochs of the source, and a new one for what the copy accepts.
    pub async fn write_epochs(&self, epochs: &Epochs, last_order_id: OrderId) -> Result<(), StoreError> {
        let numbers: Vec<i64> = epochs
            .all()
            .iter()
            .map(|epoch| epoch.number.cast_signed())
            .collect();
        let identities: Vec<i64> = epochs
            .all()
            .iter()
            .map(|epoch| epoch.identity.0.cast_signed())
            .collect();
        let secrets: Vec<&[u8]> = epochs.all().iter().map(|epoch| epoch.secret.expose()).collect();
        let first_order_ids: Vec<i64> = epochs.all().iter().map(|epoch| epoch.first_order_id.0).collect();
        let began_at: Vec<_> = epochs.all().iter().map(|epoch| epoch.began_at).collect();
        // In a separate statement, since the same epoch numbers are written again.
        self.write("delete from orderly.epochs", &[]).await?;
        self.write(
            include_str!("import_epochs.sql"),
            &[
                (&numbers, Type::INT8_ARRAY),
                (&identities, Type::INT8_ARRAY),
                (&secrets, Type::BYTEA_ARRAY),
                (&first_order_ids, Type::INT8_ARRAY),
                (&began_at, Type::TIMESTAMPTZ_ARRAY),
                (&(last_order_id.0 + 1), Type::INT8),
                (&self.complete_after, Type::INT8),
            ],
        )
        .await
    }

    /// Returns a view of what was written so far.
    pub fn written(&mut self) -> &mut dyn Snapshot {
        &mut self.snapshot
    }

    /// Commits the import. Later orders get ids above `last_order_id`, the last one given out by the source.
    pub async fn commit(self, last_order_id: OrderId) -> Result<(), StoreError> {
        // Last, since a rollback does not reset a sequence.
        self.write(
            "select setval('orderly.order_ids', greatest(last_value, $1)) from orderly.order_ids where $1 > 0",
            &[(&last_order_id.0, Type::INT8)],
        )
        .await?;
        let committed = self.snapshot.run("commit").await;
        committed.map_err(|failure| {
            failure.to_error(
                "commit the copy, which is stored completely or not at all; run `orderly verify` to find out",
            )
        })
    }

    async fn write(&self, statement: &str, parameters: Parameters<'_>) -> Result<(), StoreError> {
        // Nothing is stored before the commit, so a lost answer leaves no doubt, just as after a read.
        let written = self.snapshot.read(statement, parameters).await;
        written
            .map(|_: Vec<Row>| ())
            .map_err(|failure| failure.to_error("write the copy"))
    }
}

/// Begins the transaction. Also returns what the database already holds; `None` when it is empty.
async fn begin(connection: Connection) -> Result<(Option<String>, Import), PgFailure> {
    let snapshot = PostgresSnapshot::within(connection);
    snapshot.run(include_str!("import_begin.sql")).await?;
    let state = snapshot.read(include_str!("import_empty.sql"), &[]).await?;
    let state = rows::only(&state)?;
    let last_position = rows::column(state, 1)?;
    Ok((
        rows::column(state, 0)?,
        Import {
            snapshot,
            complete_after: last_position,
            last_position,
        },
    ))
}

/// Numbers the batches of the events. Consecutive events share one if they have the same kind and belong to different
/// orders; a start that passed over others has its own.
fn runs<'r>(records: &'r [EventRecord]) -> Vec<i32> {
    let mut run = 0;
    let mut orders = HashSet::new();
    let mut last: Option<&'r EventRecord> = None;
    let number = |record: &'r EventRecord| {
        let goes_on = last.is_some_and(|last: &EventRecord| {
            last.event.kind == record.event.kind
                && last.passed_over == record.passed_over
                && (record.passed_over.is_empty() || record.passed_over == [EVERY_EARLIER])
        });
        if !goes_on || !orders.insert(record.event.order_id) {
            run += 1;
            orders = HashSet::from([record.event.order_id]);
        }
        last = Some(record);
        run
    };
    records.iter().map(number).collect()
}

/// Converts a count. In a sound store it fits; otherwise the comparison finds the difference.
fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Writes an array as PostgreSQL reads it.
fn array_text(order_ids: &[OrderId]) -> String {
    let ids: Vec<String> = order_ids.iter().map(|id| id.0.to_string()).collect();
    format!("{{{}}}", ids.join(","))
}
