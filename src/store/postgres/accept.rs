//! Stores new orders, and recognises requests that were stored before.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use tokio_postgres::types::{ToSql, Type};

use super::class_connection::ClassConnection;
use super::classes::Class;
use super::failure::PgFailure;
use super::functions::named;
use super::group::Call;
use super::rows;
use super::shared::Shared;
use crate::money::Currency;
use crate::order::{NewOrder, OrderId, Reference};
use crate::store::accept::{Places, has_room, late, waiting_from};
use crate::store::{Accepted, IdempotencyKey, StoreError};
use crate::time::Timestamp;

static ACCEPT: LazyLock<String> = LazyLock::new(|| {
    named(
        "select order_ids, accepted_at from :accept($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
});
static ACCEPT_KEYED: LazyLock<String> = LazyLock::new(|| {
    named(
        "select stored_call, stored_order_ids, accepted_at
         from :accept_keyed($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
});

pub(super) struct Accept {
    pub orders: Arc<[NewOrder]>,
    pub key: Option<IdempotencyKey>,
    pub pending_max: Option<u64>,
    pub _places: Places,
}

impl Call for Accept {
    type Answer = Accepted;
    /// The key: of two requests with one key, the second must find what the first stored.
    type Subject = (String, String);
    const ATTEMPTED: &'static str = "accept orders";
    const CLASS: Class = Class::Accept;

    fn subject(&self) -> Option<(String, String)> {
        let key = self.key.as_ref()?;
        Some((key.scope.clone(), key.key.clone()))
    }

    fn rows(&self) -> usize {
        self.orders.len()
    }

    async fn run_group(
        calls: &[&Accept],
        connection: &mut ClassConnection,
        shared: &Shared,
    ) -> Result<Vec<Result<Accepted, StoreError>>, PgFailure> {
        let (admitted, mut refused) = admitted(calls, connection).await?;
        let mut stored = if admitted.is_empty() {
            HashMap::new()
        } else {
            store(&admitted, connection).await?
        };
        let accepted: usize = stored.values().map(|accepted| accepted.order_ids.len()).sum();
        if accepted > 0 {
            shared.metrics.orders_accepted.inc_by(accepted as u64);
            let keys = admitted.iter().filter(|(_, call)| call.key.is_some()).count();
            shared.keys_stored.fetch_add(keys, Ordering::Relaxed);
            shared.work_committed();
            let has_time = |order: &NewOrder| order.start_after.is_some() || order.deadline.is_some();
            if admitted.iter().any(|(_, call)| call.orders.iter().any(has_time)) {
                shared.wakeups.notify_timers();
            }
        }
        let missing: Vec<usize> = (0..calls.len())
            .filter(|number| !stored.contains_key(number))
            .collect();
        let mut known = find_known(calls, &missing, connection).await;
        let answers = (0..calls.len()).map(|number| match stored.remove(&number) {
            Some(accepted) => Ok(accepted),
            None => known
                .remove(&number)
                .unwrap_or_else(|| Err(refused.remove(&number).unwrap_or_else(key_just_expired))),
        });
        Ok(answers.collect())
    }
}

/// Makes the error for a key that was found when storing and had expired when it was looked up, or has expired and is
/// locked by another session.
fn key_just_expired() -> StoreError {
    StoreError::Unavailable {
        attempted: Accept::ATTEMPTED,
        source: anyhow::Error::msg("the idempotency key expired at this moment"),
    }
}

/// Returns the calls to store, with their indexes, and why the others are refused unless their keys are known: the queue has room
/// only for the oldest, and deadlines must not have passed.
async fn admitted<'c>(
    calls: &[&'c Accept],
    connection: &mut ClassConnection,
) -> Result<(Vec<(usize, &'c Accept)>, HashMap<usize, StoreError>), PgFailure> {
    let pending_max = calls.iter().find_map(|call| call.pending_max);
    let mut orders = calls.iter().flat_map(|call| call.orders.iter());
    if pending_max.is_none() && orders.all(|order| order.deadline.is_none()) {
        return Ok((calls.iter().copied().enumerate().collect(), HashMap::new()));
    }
    let counted = connection
        .read(
            "select coalesce(sum(pending - held - scheduled), 0)::int8, clock_timestamp() from orderly.counters",
            &[],
        )
        .await?;
    let counted = rows::only(&counted)?;
    let (mut pending, now) = (rows::large_count(counted, 0)?, rows::column(counted, 1)?);
    let mut admitted = Vec::new();
    let mut refused = HashMap::new();
    for (number, call) in calls.iter().enumerate() {
        let orders = waiting_from(&call.orders, now);
        if let Some(late) = late(&call.orders, now) {
            refused.insert(number, late);
        } else if has_room(pending, orders, pending_max) {
            pending += orders;
            admitted.push((number, *call));
        } else {
            refused.insert(number, StoreError::QueueFull);
        }
    }
    Ok((admitted, refused))
}

/// Stores the calls and returns the answers of those that were stored; a call whose key is known is left out.
async fn store(
    calls: &[(usize, &Accept)],
    connection: &mut ClassConnection,
) -> Result<HashMap<usize, Accepted>, PgFailure> {
    let columns = Columns::of(calls);
    if calls.iter().all(|(_, call)| call.key.is_none()) {
        store_plain(calls, &columns, connection).await
    } else {
        store_keyed(calls, &columns, connection).await
    }
}

/// The orders of a group, column by column.
struct Columns<'c> {
    user_ids: Vec<i64>,
    amounts: Vec<i64>,
    item_ids: Vec<&'c str>,
    references: Vec<Option<&'c str>>,
    metadata: Vec<Option<&'c str>>,
    user_names: Option<Vec<Option<&'c str>>>,
    currencies: Option<Vec<Option<&'c str>>>,
    lines: Option<Vec<Option<&'c str>>>,
    start_after: Option<Vec<Option<Timestamp>>>,
    held: Option<Vec<Option<bool>>>,
    hold_reasons: Option<Vec<Option<&'c str>>>,
    deadlines: Option<Vec<Option<Timestamp>>>,
}

impl<'c> Columns<'c> {
    fn of(calls: &[(usize, &'c Accept)]) -> Columns<'c> {
        let orders = || calls.iter().flat_map(|(_, call)| call.orders.iter());
        Columns {
            user_ids: orders().map(|order| order.user_id.key()).collect(),
            amounts: orders().map(|order| order.total_amount.minor_units()).collect(),
            item_ids: orders().map(|order| order.items.codes()).collect(),
            references: orders()
                .map(|order| order.reference.as_ref().map(Reference::as_str))
                .collect(),
            metadata: orders().map(|order| order.metadata.as_deref()).collect(),
            user_names: unless_empty(orders().map(|order| order.user_id.name())),
            currencies: unless_empty(orders().map(|order| order.currency.map(Currency::code))),
            lines: unless_empty(orders().map(|order| order.items.lines())),
            start_after: unless_empty(orders().map(|order| order.start_after)),
            held: unless_empty(orders().map(|order| order.hold.as_ref().map(|_| true))),
            hold_reasons: unless_empty(
                orders().map(|order| Some(order.hold.as_ref()?.reason.as_ref()?.as_str())),
            ),
            deadlines: unless_empty(orders().map(|order| order.deadline)),
        }
    }

    fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 12] {
        [
            (&self.user_ids, Type::INT8_ARRAY),
            (&self.amounts, Type::INT8_ARRAY),
            (&self.item_ids, Type::TEXT_ARRAY),
            (&self.references, Type::TEXT_ARRAY),
            (&self.metadata, Type::TEXT_ARRAY),
            (&self.user_names, Type::TEXT_ARRAY),
            (&self.currencies, Type::TEXT_ARRAY),
            (&self.lines, Type::TEXT_ARRAY),
            (&self.start_after, Type::TIMESTAMPTZ_ARRAY),
            (&self.held, Type::BOOL_ARRAY),
            (&self.hold_reasons, Type::TEXT_ARRAY),
            (&self.deadlines, Type::TIMESTAMPTZ_ARRAY),
        ]
    }
}

/// Returns a column, unless no order has the member: most orders have none.
fn unless_empty<T>(column: impl Iterator<Item = Option<T>> + Clone) -> Option<Vec<Option<T>>> {
    column
        .clone()
        .any(|value| value.is_some())
        .then(|| column.collect())
}

async fn store_plain(
    calls: &[(usize, &Accept)],
    columns: &Columns<'_>,
    connection: &mut ClassConnection,
) -> Result<HashMap<usize, Accepted>, PgFailure> {
    let slot = Shared::random_counter_slot();
    let mut parameters = columns.parameters().to_vec();
    parameters.push((&slot, Type::INT2));
    let stored = connection.execute_once(&ACCEPT, &parameters).await?;
    let row = rows::only(&stored)?;
    let order_ids: Vec<i64> = rows::column(row, 0)?;
    let created_at = rows::column(row, 1)?;
    let mut order_ids = order_ids.into_iter();
    let answer = |(number, call): &(usize, &Accept)| {
        let of_call: Vec<i64> = order_ids.by_ref().take(call.orders.len()).collect();
        (*number, accepted(of_call, created_at))
    };
    Ok(calls.iter().map(answer).collect())
}

async fn store_keyed(
    calls: &[(usize, &Accept)],
    columns: &Columns<'_>,
    connection: &mut ClassConnection,
) -> Result<HashMap<usize, Accepted>, PgFailure> {
    let call_numbers: Vec<i32> = calls
        .iter()
        .flat_map(|(number, call)| call.orders.iter().map(|_| call_number(*number)))
        .collect();
    let keys = || {
        calls
            .iter()
            .filter_map(|(number, call)| Some((*number, call.key.as_ref()?)))
    };
    let key_calls: Vec<i32> = keys().map(|(number, _)| call_number(number)).collect();
    let scopes: Vec<&str> = keys().map(|(_, key)| key.scope.as_str()).collect();
    let names: Vec<&str> = keys().map(|(_, key)| key.key.as_str()).collect();
    let fingerprints: Vec<&[u8]> = keys().map(|(_, key)| &key.fingerprint[..]).collect();
    let slot = Shared::random_counter_slot();
    let mut parameters = vec![(&call_numbers as &(dyn ToSql + Sync), Type::INT4_ARRAY)];
    parameters.extend(columns.parameters());
    parameters.extend([
        (&key_calls as &(dyn ToSql + Sync), Type::INT4_ARRAY),
        (&scopes, Type::TEXT_ARRAY),
        (&names, Type::TEXT_ARRAY),
        (&fingerprints, Type::BYTEA_ARRAY),
        (&slot, Type::INT2),
    ]);
    let stored = connection.execute_once(&ACCEPT_KEYED, &parameters).await?;
    let answer = |row| {
        let number: i32 = rows::column(row, 0)?;
        let number = usize::try_from(number).map_err(|_| PgFailure::undecodable("a call", number))?;
        let created_at = rows::column(row, 2)?;
        Ok((number, accepted(rows::column(row, 1)?, created_at)))
    };
    stored.iter().map(answer).collect()
}

/// Converts the index of a call in its group.
fn call_number(number: usize) -> i32 {
    i32::try_from(number).expect("the limit for calls in a group fits into 32 bits")
}

fn accepted(order_ids: Vec<i64>, created_at: Timestamp) -> Accepted {
    Accepted {
        order_ids: order_ids.into_iter().map(OrderId).collect(),
        created_at,
        replayed: false,
    }
}

/// Looks up the keys of the calls at these indexes. Calls without a key, or with an unknown one, are left out.
async fn find_known(
    calls: &[&Accept],
    numbers: &[usize],
    connection: &mut ClassConnection,
) -> HashMap<usize, Result<Accepted, StoreError>> {
    let keyed: Vec<(usize, &IdempotencyKey)> = numbers
        .iter()
        .filter_map(|number| Some((*number, calls[*number].key.as_ref()?)))
        .collect();
    if keyed.is_empty() {
        return HashMap::new();
    }
    match look_up(&keyed, connection).await {
        Ok(known) => known,
        // The other calls of the group are stored and keep their answers.
        Err(failure) => {
            let failed = |(number, _): &(usize, _)| (*number, Err(failure.to_error(Accept::ATTEMPTED)));
            keyed.iter().map(failed).collect()
        }
    }
}

async fn look_up(
    keyed: &[(usize, &IdempotencyKey)],
    connection: &mut ClassConnection,
) -> Result<HashMap<usize, Result<Accepted, StoreError>>, PgFailure> {
    let scopes: Vec<&str> = keyed.iter().map(|(_, key)| key.scope.as_str()).collect();
    let names: Vec<&str> = keyed.iter().map(|(_, key)| key.key.as_str()).collect();
    let found = connection
        .read_confirmed(
            include_str!("find_keys.sql"),
            &[(&scopes, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)],
        )
        .await?;
    let mut known = HashMap::new();
    for row in &found {
        let place: i64 = rows::column(row, 0)?;
        let (number, key) = usize::try_from(place - 1)
            .ok()
            .and_then(|place| keyed.get(place))
            .ok_or_else(|| PgFailure::undecodable("a key's place", place))?;
        let order_ids: Vec<i64> = rows::column(row, 2)?;
        let order_ids = order_ids.into_iter().map(OrderId).collect();
        let answer = key.answer(rows::column(row, 1)?, order_ids, rows::column(row, 3)?);
        known.insert(*number, answer);
    }
    Ok(known)
}
