//! Storing new orders, and recognising requests that were stored before.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use tokio_postgres::types::{ToSql, Type};

use super::classes::Class;
use super::failure::Failure;
use super::functions::named;
use super::group::Call;
use super::link::Link;
use super::rows;
use super::shared::Shared;
use crate::order::{NewOrder, OrderId, Reference};
use crate::store::accept::{Places, has_room};
use crate::store::{Accepted, IdempotencyKey, StoreError};
use crate::time::Timestamp;

static ACCEPT: LazyLock<String> =
    LazyLock::new(|| named("select order_ids, accepted_at from :accept($1, $2, $3, $4, $5, $6)"));
static ACCEPT_KEYED: LazyLock<String> = LazyLock::new(|| {
    named(
        "select stored_call, stored_order_ids, accepted_at
         from :accept_keyed($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
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
    /// Of two requests with one key the second is to find what the first stored.
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

    async fn carry_out(
        calls: &[&Accept],
        link: &mut Link,
        shared: &Shared,
    ) -> Result<Vec<Result<Accepted, StoreError>>, Failure> {
        let admitted = admitted(calls, link).await?;
        let mut stored = if admitted.is_empty() {
            HashMap::new()
        } else {
            store(&admitted, link).await?
        };
        let accepted: usize = stored.values().map(|accepted| accepted.order_ids.len()).sum();
        if accepted > 0 {
            shared.metrics.orders_accepted.inc_by(accepted as u64);
            let keys = admitted.iter().filter(|(_, call)| call.key.is_some()).count();
            shared.keys_stored.fetch_add(keys, Ordering::Relaxed);
            shared.changed_with_work();
        }
        let missing: Vec<usize> = (0..calls.len())
            .filter(|number| !stored.contains_key(number))
            .collect();
        let mut known = known(calls, &missing, link).await;
        let answers = (0..calls.len()).map(|number| match stored.remove(&number) {
            Some(accepted) => Ok(accepted),
            None => known.remove(&number).unwrap_or_else(|| {
                let was_admitted = admitted.iter().any(|(admitted, _)| *admitted == number);
                Err(if was_admitted {
                    forgotten_just_now()
                } else {
                    StoreError::QueueFull
                })
            }),
        });
        Ok(answers.collect())
    }
}

/// The key was there, and when it was looked up its retention had passed. Or it is past that and another session of the
/// database has locked it.
fn forgotten_just_now() -> StoreError {
    StoreError::Unavailable {
        attempted: Accept::ATTEMPTED,
        source: anyhow::Error::msg("the idempotency key ran out at this moment"),
    }
}

/// The calls for which there is room, with their numbers: the oldest ones.
async fn admitted<'c>(calls: &[&'c Accept], link: &mut Link) -> Result<Vec<(usize, &'c Accept)>, Failure> {
    let numbered = || calls.iter().copied().enumerate();
    let Some(pending_max) = calls.iter().find_map(|call| call.pending_max) else {
        return Ok(numbered().collect());
    };
    let counted = link
        .read(
            "select coalesce(sum(pending), 0)::int8 from orderly.counters",
            &[],
        )
        .await?;
    let mut pending = counted.first().map_or(Ok(0), |row| rows::large_count(row, 0))?;
    let takes = |(_, call): &(usize, &Accept)| {
        let orders = call.orders.len();
        let takes = has_room(pending, orders, Some(pending_max));
        pending += if takes { orders as u64 } else { 0 };
        takes
    };
    Ok(numbered().filter(takes).collect())
}

/// The answers of the calls that were stored now; those whose key is known are left out.
async fn store(calls: &[(usize, &Accept)], link: &mut Link) -> Result<HashMap<usize, Accepted>, Failure> {
    let columns = Columns::of(calls);
    if calls.iter().all(|(_, call)| call.key.is_none()) {
        store_plain(calls, &columns, link).await
    } else {
        store_keyed(calls, &columns, link).await
    }
}

/// The orders of a group, column by column.
struct Columns<'c> {
    user_ids: Vec<i64>,
    amounts: Vec<i64>,
    item_ids: Vec<&'c str>,
    references: Vec<Option<&'c str>>,
    metadata: Vec<Option<&'c str>>,
}

impl<'c> Columns<'c> {
    fn of(calls: &[(usize, &'c Accept)]) -> Columns<'c> {
        let orders = || calls.iter().flat_map(|(_, call)| call.orders.iter());
        Columns {
            user_ids: orders().map(|order| order.user_id).collect(),
            amounts: orders().map(|order| order.total_amount.minor_units()).collect(),
            item_ids: orders().map(|order| order.item_ids.as_str()).collect(),
            references: orders()
                .map(|order| order.reference.as_ref().map(Reference::as_str))
                .collect(),
            metadata: orders().map(|order| order.metadata.as_deref()).collect(),
        }
    }

    fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 5] {
        [
            (&self.user_ids, Type::INT8_ARRAY),
            (&self.amounts, Type::INT8_ARRAY),
            (&self.item_ids, Type::TEXT_ARRAY),
            (&self.references, Type::TEXT_ARRAY),
            (&self.metadata, Type::TEXT_ARRAY),
        ]
    }
}

async fn store_plain(
    calls: &[(usize, &Accept)],
    columns: &Columns<'_>,
    link: &mut Link,
) -> Result<HashMap<usize, Accepted>, Failure> {
    let slot = Shared::any_slot();
    let [user_ids, amounts, item_ids, references, metadata] = columns.parameters();
    let parameters = [
        user_ids,
        amounts,
        item_ids,
        references,
        metadata,
        (&slot, Type::INT2),
    ];
    let stored = link.once(&ACCEPT, &parameters).await?;
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
    link: &mut Link,
) -> Result<HashMap<usize, Accepted>, Failure> {
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
    let slot = Shared::any_slot();
    let [user_ids, amounts, item_ids, references, metadata] = columns.parameters();
    let parameters = [
        (&call_numbers as &(dyn ToSql + Sync), Type::INT4_ARRAY),
        user_ids,
        amounts,
        item_ids,
        references,
        metadata,
        (&key_calls, Type::INT4_ARRAY),
        (&scopes, Type::TEXT_ARRAY),
        (&names, Type::TEXT_ARRAY),
        (&fingerprints, Type::BYTEA_ARRAY),
        (&slot, Type::INT2),
    ];
    let stored = link.once(&ACCEPT_KEYED, &parameters).await?;
    let answer = |row| {
        let number: i32 = rows::column(row, 0)?;
        let number = usize::try_from(number).map_err(|_| Failure::undecodable("a call", number))?;
        let created_at = rows::column(row, 2)?;
        Ok((number, accepted(rows::column(row, 1)?, created_at)))
    };
    stored.iter().map(answer).collect()
}

/// Calls of one group are few.
fn call_number(number: usize) -> i32 {
    i32::try_from(number).expect("a group has at most as many calls as its limit says")
}

fn accepted(order_ids: Vec<i64>, created_at: Timestamp) -> Accepted {
    Accepted {
        order_ids: order_ids.into_iter().map(OrderId).collect(),
        created_at,
        replayed: false,
    }
}

/// What is known of the keys of these calls; nothing of a call without one, or whose key is unknown.
async fn known(
    calls: &[&Accept],
    numbers: &[usize],
    link: &mut Link,
) -> HashMap<usize, Result<Accepted, StoreError>> {
    let keyed: Vec<(usize, &IdempotencyKey)> = numbers
        .iter()
        .filter_map(|number| Some((*number, calls[*number].key.as_ref()?)))
        .collect();
    if keyed.is_empty() {
        return HashMap::new();
    }
    match look_up(&keyed, link).await {
        Ok(known) => known,
        // What was stored for the others of the group is theirs all the same.
        Err(failure) => {
            let failed = |(number, _): &(usize, _)| (*number, Err(failure.to_error(Accept::ATTEMPTED)));
            keyed.iter().map(failed).collect()
        }
    }
}

async fn look_up(
    keyed: &[(usize, &IdempotencyKey)],
    link: &mut Link,
) -> Result<HashMap<usize, Result<Accepted, StoreError>>, Failure> {
    let scopes: Vec<&str> = keyed.iter().map(|(_, key)| key.scope.as_str()).collect();
    let names: Vec<&str> = keyed.iter().map(|(_, key)| key.key.as_str()).collect();
    let found = link
        .confirm(
            include_str!("known_keys.sql"),
            &[(&scopes, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)],
        )
        .await?;
    let mut known = HashMap::new();
    for row in &found {
        let place: i64 = rows::column(row, 0)?;
        let (number, key) = usize::try_from(place - 1)
            .ok()
            .and_then(|place| keyed.get(place))
            .ok_or_else(|| Failure::undecodable("a key's place", place))?;
        let order_ids: Vec<i64> = rows::column(row, 2)?;
        let order_ids = order_ids.into_iter().map(OrderId).collect();
        let answer = key.answer(rows::column(row, 1)?, order_ids, rows::column(row, 3)?);
        known.insert(*number, answer);
    }
    Ok(known)
}
