//! Logs which sessions have locked orders: at first, once a minute while it lasts, and when it is over.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::types::Type;

use super::failure::Failure;
use super::links::Links;
use super::query::Reads;
use super::rows;
use super::shared::Shared;
use crate::order::OrderId;
use crate::store::LockHolder;

/// The interval between looks while orders are locked. Locks gone by the first are not logged: nodes lock for moments.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const TELL_INTERVAL: Duration = Duration::from_mins(1);
/// The most orders that one log line names.
const NAMED_MAX: usize = 5;

/// Finds the sessions that hold orders, by order. A lock that several sessions share has no holder that can be found.
pub(super) async fn holders(
    source: &impl Reads,
    ids: &[OrderId],
) -> Result<Vec<(OrderId, LockHolder)>, Failure> {
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
        Ok((OrderId(rows::column(row, 0)?), holder))
    };
    found.iter().map(holder).collect()
}

/// A session that held orders at the last look.
struct Known {
    since: Instant,
    told: Option<Instant>,
}

/// Watches for locked orders until the store closes.
pub(super) async fn watch(shared: Arc<Shared>, links: Links) {
    let mut known: BTreeMap<i32, Known> = BTreeMap::new();
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
        let held: HashSet<OrderId> = found.iter().map(|(id, _)| *id).collect();
        shared
            .locked
            .free(ids.into_iter().filter(|id| !held.contains(id)));
        let mut sessions: BTreeMap<i32, (LockHolder, Vec<OrderId>)> = BTreeMap::new();
        for (id, holder) in found {
            let (_, orders) = sessions.entry(holder.pid).or_insert_with(|| (holder, Vec::new()));
            orders.push(id);
        }
        known.retain(|pid, session| {
            let holds = sessions.contains_key(pid);
            if !holds && session.told.is_some() {
                tracing::info!(
                    session.pid = *pid,
                    "session {pid} of the database has locked no order any more"
                );
            }
            holds
        });
        for (pid, (holder, orders)) in &sessions {
            let Some(session) = known.get_mut(pid) else {
                let since = Instant::now();
                known.insert(*pid, Known { since, told: None });
                continue;
            };
            if session.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
                session.told = Some(Instant::now());
                tell(holder, orders, session.since.elapsed());
            }
        }
    }
}

/// `at_least`: since this node noticed.
fn tell(holder: &LockHolder, orders: &[OrderId], at_least: Duration) {
    let named: Vec<String> = orders.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if orders.len() > NAMED_MAX { ", …" } else { "" };
    let (named, count) = (named.join(", "), orders.len());
    let noun = if count == 1 { "order" } else { "orders" };
    let (pid, seconds) = (holder.pid, at_least.as_secs());
    tracing::warn!(
        session.pid = pid,
        session.user = holder.user,
        session.application = holder.application,
        orders = count,
        "{holder} has locked {count} {noun} ({named}{more}), for at least {seconds} s: they wait until its transaction ends; \
         end it, or run select pg_terminate_backend({pid})"
    );
}
