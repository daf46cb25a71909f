//! Reads how many connections the database's settings allow, and keeps this node to its share of them as nodes come and go.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::classes::{CONNECTIONS_MAX, CONNECTIONS_MIN, Class};
use super::failure::Failure;
use super::links::Links;
use super::links::Reads;
use super::pool::Pool;
use super::rows;
use super::shared::Shared;
use crate::store::snapshot::Room;

/// The interval between two looks at the settings while the node wants more than its share.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// Reads how many connections the settings allow the nodes of a database; meaningless for connections to a pooler.
pub(super) async fn room(source: &impl Reads) -> Result<Option<Room>, Failure> {
    let found = source.read(include_str!("allowance.sql"), &[]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let allowed: i32 = rows::column(row, 0)?;
    Ok(Some(Room {
        allowed: usize::try_from(allowed).unwrap_or(0),
        setting: rows::column(row, 1)?,
        node_wants: CONNECTIONS_MAX,
        node_needs: CONNECTIONS_MIN,
    }))
}

/// Nodes that live, and this one, which is not on the list yet.
async fn nodes_with_this_one(source: &impl Reads) -> Result<usize, Failure> {
    let others = "select count(*) from orderly.nodes where expires_at >= clock_timestamp()";
    let found = source.read(others, &[]).await?;
    let others = rows::large_count(rows::only(&found)?, 0)?;
    Ok(usize::try_from(others).unwrap_or(0) + 1)
}

/// Returns how many of the connections allowed each of `nodes` nodes uses at most. One is left where the nodes have enough
/// without it: a node that comes later needs it to be noticed.
fn share(allowed: usize, nodes: usize) -> usize {
    let nodes = nodes.max(1);
    let needed = CONNECTIONS_MIN.min(allowed / nodes).max(1);
    (allowed.saturating_sub(1) / nodes).clamp(needed, CONNECTIONS_MAX)
}

/// Sets this node's share at its start, and logs when there is less than the nodes want.
pub(super) async fn count_on_room(pool: &Arc<Pool>) -> Option<Room> {
    let numbers = Links::new(pool, Class::Numbers);
    let found = async {
        let room = room(&numbers).await?;
        Ok((room, nodes_with_this_one(&numbers).await?))
    };
    let (room, nodes) = match found.await {
        Ok((room, nodes)) => (room?, nodes),
        Err::<_, Failure>(failure) => {
            tracing::debug!(?failure, "cannot read how many connections the database allows");
            return None;
        }
    };
    pool.set_share(share(room.allowed, nodes));
    if let Some(shortage) = room.shortage(nodes) {
        tracing::warn!("too few connections to the database, so nodes work more slowly: {shortage}");
    }
    Some(room)
}

/// Sets this node's share anew when its heartbeats find another number of nodes, until the store closes. Ends before that
/// when the settings name no limit: the node learns of one that is set later only by refusals.
pub(super) async fn keep_to_share(shared: Arc<Shared>, pool: Arc<Pool>, mut known: Option<Room>) {
    let numbers = Links::new(&pool, Class::Numbers);
    let mut beats = shared.nodes.subscribe();
    let mut last = None;
    let mut read_at = Instant::now();
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            // The sender lives as long as what is shared.
            _ = beats.changed() => {}
        }
        let nodes = *beats.borrow_and_update();
        // An operator may have changed the settings since.
        if known.is_none() || (pool.wants_more() && read_at.elapsed() >= LOOK_INTERVAL) {
            let Ok(room) = room(&numbers).await else { continue };
            read_at = Instant::now();
            known = room;
        }
        let Some(room) = &known else { return };
        let now = (nodes, share(room.allowed, nodes));
        pool.set_share(now.1);
        if last.replace(now).is_some_and(|last| last != now) {
            tracing::info!(
                "{nodes} {} up to {} of the {} connections that the database allows ({})",
                if nodes == 1 {
                    "node uses"
                } else {
                    "nodes use, each,"
                },
                now.1,
                room.allowed,
                room.setting,
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
