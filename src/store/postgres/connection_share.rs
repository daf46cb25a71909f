//! The node's share of the connections that the database's settings allow. It follows the number of live nodes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::class_pool::ClassPool;
use super::class_pool::ReadSource;
use super::classes::{CONNECTIONS_MAX, CONNECTIONS_MIN, Class};
use super::failure::PgFailure;
use super::pool::Pool;
use super::rows;
use super::shared::Shared;
use crate::store::snapshot::ConnectionBudget;

/// The interval between two reads of the settings while the node wants more than its share.
const READ_INTERVAL: Duration = Duration::from_secs(15);

/// Reads how many connections the settings allow the nodes of a database; `None` without a limit. Meaningless over a
/// pooler.
pub(super) async fn connection_limit(
    source: &impl ReadSource,
) -> Result<Option<ConnectionBudget>, PgFailure> {
    let found = source.read(include_str!("connection_limit.sql"), &[]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let allowed: i32 = rows::column(row, 0)?;
    Ok(Some(ConnectionBudget {
        allowed: usize::try_from(allowed).unwrap_or(0),
        setting: rows::column(row, 1)?,
        per_node_max: CONNECTIONS_MAX,
        per_node_min: CONNECTIONS_MIN,
    }))
}

/// Counts the live nodes and this one, which is not on the list yet.
async fn live_nodes_with_this(source: &impl ReadSource) -> Result<usize, PgFailure> {
    let others = "select count(*) from orderly.nodes where expires_at >= clock_timestamp()";
    let found = source.read(others, &[]).await?;
    let others = rows::large_count(rows::only(&found)?, 0)?;
    Ok(usize::try_from(others).unwrap_or(0) + 1)
}

/// Returns the share of each of `nodes` nodes. One connection stays free if the nodes have enough without it: a new
/// node needs it to announce itself.
fn share(allowed: usize, nodes: usize) -> usize {
    let nodes = nodes.max(1);
    let needed = CONNECTIONS_MIN.min(allowed / nodes).max(1);
    (allowed.saturating_sub(1) / nodes).clamp(needed, CONNECTIONS_MAX)
}

/// Sets the share of this node at its start, and logs a shortage. Returns the limit; `None` if it is unknown.
pub(super) async fn set_initial_share(pool: &Arc<Pool>) -> Option<ConnectionBudget> {
    let monitoring = ClassPool::new(pool, Class::Monitoring);
    let found = async {
        let limit = connection_limit(&monitoring).await?;
        Ok((limit, live_nodes_with_this(&monitoring).await?))
    };
    let (limit, nodes) = match found.await {
        Ok((limit, nodes)) => (limit?, nodes),
        Err::<_, PgFailure>(failure) => {
            tracing::debug!(?failure, "cannot read how many connections the database allows");
            return None;
        }
    };
    pool.set_share(share(limit.allowed, nodes));
    if let Some(shortage) = limit.shortage(nodes) {
        tracing::warn!(
            "too few connections to the database; nodes work more slowly until the limit is raised: {shortage}"
        );
    }
    Some(limit)
}

/// Updates the share of this node when its heartbeats find another number of nodes, until the store closes. Ends
/// early when the settings have no limit: a limit that is set later shows by refusals.
pub(super) async fn follow_node_count(
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    mut known: Option<ConnectionBudget>,
) {
    let monitoring = ClassPool::new(&pool, Class::Monitoring);
    let mut node_counts = shared.live_nodes.subscribe();
    let mut last = None;
    let mut read_at = Instant::now();
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            // The sender lives as long as `shared`.
            _ = node_counts.changed() => {}
        }
        let nodes = *node_counts.borrow_and_update();
        // An operator may have changed the settings.
        if known.is_none() || (pool.wants_more() && read_at.elapsed() >= READ_INTERVAL) {
            let Ok(limit) = connection_limit(&monitoring).await else {
                continue;
            };
            read_at = Instant::now();
            known = limit;
        }
        let Some(limit) = &known else { return };
        let now = (nodes, share(limit.allowed, nodes));
        pool.set_share(now.1);
        if last.replace(now).is_some_and(|last| last != now) {
            tracing::info!(
                "{nodes} {} up to {} of the {} connections that the database allows ({})",
                if nodes == 1 { "node uses" } else { "nodes each use" },
                now.1,
                limit.allowed,
                limit.setting,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_one_connection_where_the_nodes_have_enough() {
        for (allowed, nodes, expected) in [
            (1, 1, 1),
            (2, 1, 2),
            (3, 1, 3),
            (4, 1, 3),
            (6, 1, 5),
            (6, 2, 3),
            (5, 2, 2),
            (3, 2, 1),
            (3, 5, 1),
            (16, 1, 15),
            (31, 2, 15),
            (30, 2, 14),
            (97, 7, 13),
        ] {
            assert_eq!(
                share(allowed, nodes),
                expected,
                "{nodes} nodes, {allowed} allowed"
            );
        }
    }
}
