//! Logs which sessions have locked orders: at first, once a minute while it lasts, and when it is over.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::types::Type;

use super::failure::Failure;
use super::links::Links;
use super::links::Reads;
use super::rows;
use super::shared::Shared;
use crate::order::OrderId;
use crate::store::LockHolder;

/// The interval between looks while orders are locked. Locks gone by the first are not logged: nodes lock for moments.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const TELL_INTERVAL: Duration = Duration::from_mins(1);
/// The age of a transaction from which on the log says how to end its session; the statement asks for the same.
const ENDED_AFTER: Duration = Duration::from_mins(1);
/// The most orders that one log line names.
const NAMED_MAX: usize = 5;

/// An order, and the session that holds it.
pub(super) struct Holding {
    pub order: OrderId,
    pub holder: LockHolder,
    /// Names the session's transaction: a session that is used on has another one.
    transaction: String,
}

/// Finds the sessions that hold orders, by order. A lock that several sessions share has no holder that can be found.
pub(super) async fn holders(source: &impl Reads, ids: &[OrderId]) -> Result<Vec<Holding>, Failure> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let found = source
        .read(include_str!("holders.sql"), &[(&ids, Type::INT8_ARRAY)])
        .await?;
    let holder = |row| {
        let age: Option<i64> = rows::column(row, 4)?;
        let holder = LockHolder {
            pid: rows::column(row, 1)?,
            user: rows::column(row, 2)?,
            application: rows::column(row, 3)?,
            open_for: age.map(|seconds| Duration::from_secs(seconds.max(0).cast_unsigned())),
        };
        Ok(Holding {
            order: OrderId(rows::column(row, 0)?),
            holder,
            transaction: rows::column(row, 5)?,
        })
    };
    found.iter().map(holder).collect()
}

/// A transaction that held orders at the last look.
struct Known {
    since: Instant,
    told_at: Option<Instant>,
}

/// Names a transaction by its session and the session's name for it.
type Name = (i32, String);

/// Watches for locked orders until the store closes.
pub(super) async fn watch(shared: Arc<Shared>, links: Links) {
    let mut known: BTreeMap<Name, Known> = BTreeMap::new();
    // Sessions that the log names, until it says that they have locked no order any more.
    let mut told: BTreeSet<i32> = BTreeSet::new();
    loop {
        let look = async {
            if shared.locked.ids().is_empty() && known.is_empty() {
                shared.locked.came().await;
            }
            sleep(LOOK_INTERVAL).await;
        };
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = look => {}
        }
        let ids = shared.locked.ids();
        if ids.is_empty() && known.is_empty() {
            continue;
        }
        let Ok(found) = holders(&links, &ids).await else {
            continue;
        };
        let held: HashSet<OrderId> = found.iter().map(|holding| holding.order).collect();
        shared
            .locked
            .free(ids.into_iter().filter(|id| !held.contains(id)));
        let mut transactions: BTreeMap<Name, (LockHolder, Vec<OrderId>)> = BTreeMap::new();
        for holding in found {
            let name = (holding.holder.pid, holding.transaction);
            let (_, orders) = transactions
                .entry(name)
                .or_insert_with(|| (holding.holder, Vec::new()));
            orders.push(holding.order);
        }
        let sessions: HashSet<i32> = transactions.keys().map(|(pid, _)| *pid).collect();
        known.retain(|name, _| transactions.contains_key(name));
        told.retain(|pid| {
            let holds = sessions.contains(pid);
            if !holds {
                tracing::info!(
                    session.pid = pid,
                    "session {pid} of the database has locked no order any more"
                );
            }
            holds
        });
        for (name, (holder, orders)) in &transactions {
            let Some(transaction) = known.get_mut(name) else {
                let since = Instant::now();
                known.insert(name.clone(), Known { since, told_at: None });
                continue;
            };
            if transaction
                .told_at
                .is_none_or(|told_at| told_at.elapsed() >= TELL_INTERVAL)
            {
                transaction.told_at = Some(Instant::now());
                told.insert(holder.pid);
                tell(holder, orders, transaction.since.elapsed());
            }
        }
    }
}

fn tell(holder: &LockHolder, orders: &[OrderId], at_least: Duration) {
    tracing::warn!(
        session.pid = holder.pid,
        session.user = holder.user,
        session.application = holder.application,
        orders = orders.len(),
        "{}",
        line(holder, orders, at_least)
    );
}

/// `at_least`: since this node noticed the transaction.
fn line(holder: &LockHolder, orders: &[OrderId], at_least: Duration) -> String {
    let named: Vec<String> = orders.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if orders.len() > NAMED_MAX { ", …" } else { "" };
    let (named, count) = (named.join(", "), orders.len());
    let noun = if count == 1 { "order" } else { "orders" };
    let (pid, seconds) = (holder.pid, at_least.as_secs());
    let age = holder.open_for.unwrap_or_default().max(at_least);
    let advice = if age < ENDED_AFTER {
        String::new()
    } else {
        // The session may have another transaction by the time somebody reads this.
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
    fn a_young_transaction_is_not_advised_to_be_ended() {
        let told = |open_for: Option<u64>, at_least| {
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
            let told = told(open_for, at_least);
            let ends =
                told.contains("pg_terminate_backend(pid) from pg_stat_activity where pid = 7 and xact_start");
            assert_eq!(ends, advised, "{told}");
        }
    }
}
