//! Logs which sessions have locked orders: when that is found, once a minute while it lasts, and when it ends.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::types::Type;

use super::class_pool::ClassPool;
use super::class_pool::ReadSource;
use super::failure::PgFailure;
use super::rows;
use super::shared::Shared;
use crate::order::OrderId;
use crate::store::LockHolder;

/// The interval between checks while orders are locked. Locks that are gone by the first check are not logged: nodes
/// lock for moments.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The interval between two log lines for the same transaction.
const LOG_INTERVAL: Duration = Duration::from_mins(1);
/// The age of a transaction from which the log says how to end its session. The advised statement asks for the same
/// age.
const ADVICE_AFTER: Duration = Duration::from_mins(1);
/// The most orders that one log line names.
const NAMED_MAX: usize = 5;

/// A locked order and the session that holds the lock.
pub(super) struct LockedOrder {
    pub order: OrderId,
    pub holder: LockHolder,
    /// Identifies the session's transaction: a session that is used again has another one.
    transaction: String,
}

/// Finds the sessions that have locked the orders. A lock that several sessions share has no holder that can be
/// found.
pub(super) async fn lock_holders(
    source: &impl ReadSource,
    ids: &[OrderId],
) -> Result<Vec<LockedOrder>, PgFailure> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let found = source
        .read(include_str!("lock_holders.sql"), &[(&ids, Type::INT8_ARRAY)])
        .await?;
    let holder = |row| {
        let age: Option<i64> = rows::column(row, 4)?;
        let holder = LockHolder {
            pid: rows::column(row, 1)?,
            user: rows::column(row, 2)?,
            application: rows::column(row, 3)?,
            open_for: age.map(|seconds| Duration::from_secs(seconds.max(0).cast_unsigned())),
        };
        Ok(LockedOrder {
            order: OrderId(rows::column(row, 0)?),
            holder,
            transaction: rows::column(row, 5)?,
        })
    };
    found.iter().map(holder).collect()
}

/// A transaction that held locks at the previous check.
struct KnownTransaction {
    since: Instant,
    logged_at: Option<Instant>,
}

/// Identifies a transaction by its session and the session's id for it.
type TransactionId = (i32, String);

/// Watches for locked orders until the store closes.
pub(super) async fn watch(shared: Arc<Shared>, pool: ClassPool) {
    let mut known: BTreeMap<TransactionId, KnownTransaction> = BTreeMap::new();
    // Sessions that the log named, until it says that they hold no lock any more.
    let mut logged: BTreeSet<i32> = BTreeSet::new();
    loop {
        let next_check = async {
            if shared.locked.ids().is_empty() && known.is_empty() {
                shared.locked.more_found().await;
            }
            sleep(CHECK_INTERVAL).await;
        };
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = next_check => {}
        }
        let ids = shared.locked.ids();
        if ids.is_empty() && known.is_empty() {
            continue;
        }
        let Ok(found) = lock_holders(&pool, &ids).await else {
            continue;
        };
        let held: HashSet<OrderId> = found.iter().map(|locked| locked.order).collect();
        shared
            .locked
            .found_free(ids.into_iter().filter(|id| !held.contains(id)));
        let mut transactions: BTreeMap<TransactionId, (LockHolder, Vec<OrderId>)> = BTreeMap::new();
        for locked in found {
            let transaction_id = (locked.holder.pid, locked.transaction);
            let (_, orders) = transactions
                .entry(transaction_id)
                .or_insert_with(|| (locked.holder, Vec::new()));
            orders.push(locked.order);
        }
        let sessions: HashSet<i32> = transactions.keys().map(|(pid, _)| *pid).collect();
        known.retain(|transaction_id, _| transactions.contains_key(transaction_id));
        logged.retain(|pid| {
            let holds = sessions.contains(pid);
            if !holds {
                tracing::info!(
                    session.pid = pid,
                    "session {pid} of the database has locked no order any more"
                );
            }
            holds
        });
        for (transaction_id, (holder, orders)) in &transactions {
            let Some(transaction) = known.get_mut(transaction_id) else {
                let since = Instant::now();
                known.insert(
                    transaction_id.clone(),
                    KnownTransaction {
                        since,
                        logged_at: None,
                    },
                );
                continue;
            };
            if transaction
                .logged_at
                .is_none_or(|logged_at| logged_at.elapsed() >= LOG_INTERVAL)
            {
                transaction.logged_at = Some(Instant::now());
                logged.insert(holder.pid);
                log(holder, orders, transaction.since.elapsed());
            }
        }
    }
}

fn log(holder: &LockHolder, orders: &[OrderId], at_least: Duration) {
    tracing::warn!(
        session.pid = holder.pid,
        session.user = holder.user,
        session.application = holder.application,
        orders = orders.len(),
        "{}",
        line(holder, orders, at_least)
    );
}

/// Writes the log line. `at_least` is the time since this node noticed the transaction.
fn line(holder: &LockHolder, orders: &[OrderId], at_least: Duration) -> String {
    let named: Vec<String> = orders.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if orders.len() > NAMED_MAX { ", …" } else { "" };
    let (named, count) = (named.join(", "), orders.len());
    let noun = if count == 1 { "order" } else { "orders" };
    let (pid, seconds) = (holder.pid, at_least.as_secs());
    let age = holder.open_for.unwrap_or_default().max(at_least);
    let advice = if age < ADVICE_AFTER {
        String::new()
    } else {
        // The session may have another transaction by the time an operator reads this.
        format!(
            "; end it there, or run select pg_terminate_backend(pid) from pg_stat_activity where pid = {pid} and \
             xact_start < now() - interval '1 minute'"
        )
    };
    format!(
        "{holder} has locked {count} {noun} ({named}{more}), for at least {seconds} s: they wait until its transaction \
         ends{advice}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_transactions_are_advised_to_be_ended() {
        let log_line = |open_for: Option<u64>, at_least| {
            let holder = LockHolder {
                pid: 7,
                user: None,
                application: None,
                open_for: open_for.map(Duration::from_secs),
            };
            line(&holder, &[OrderId(1)], Duration::from_secs(at_least))
        };
        for (open_for, at_least, advised) in [
            (None, 1, false),
            (Some(1), 1, false),
            (Some(59), 1, false),
            (Some(60), 1, true),
            (None, 60, true),
        ] {
            let log_line = log_line(open_for, at_least);
            let ends = log_line
                .contains("pg_terminate_backend(pid) from pg_stat_activity where pid = 7 and xact_start");
            assert_eq!(ends, advised, "{log_line}");
        }
    }
}
