//! Detects a second server on the same file by its heartbeats. The server lock normally prevents one, but not from another
//! mount or on a file system without locks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::failure::SqliteHealth;
use super::group::{CallError, Group};
use crate::lease::NodeId;
use crate::store::StoreError;
use crate::time::Timestamp;

/// The nodes of this process and the time when it opened the file. Heartbeats of any other node come from a second server.
pub(super) struct SoleServer {
    opened_at: Timestamp,
    health: Arc<SqliteHealth>,
    /// Nodes of this process, with their start times. Kept here, because a server that opens the file later removes them from
    /// the table.
    own: Mutex<HashMap<NodeId, Timestamp>>,
    warned: AtomicBool,
}

impl SoleServer {
    pub fn new(opened_at: Timestamp, health: Arc<SqliteHealth>) -> SoleServer {
        SoleServer {
            opened_at,
            health,
            own: Mutex::default(),
            warned: AtomicBool::new(false),
        }
    }

    /// Returns the start time of the node: `now` if the node is new.
    pub fn node_started_at(&self, node: NodeId, now: Timestamp) -> Timestamp {
        *self.own().entry(node).or_insert(now)
    }

    pub fn forget(&self, node: NodeId) {
        self.own().remove(&node);
    }

    /// Declares the store broken if an earlier server still uses the file: of two servers, the later one ends. Logs an error if a
    /// later one does.
    pub fn require_sole(&self, group: &Group<'_>) -> Result<(), CallError> {
        let mut statement = group
            .connection
            .prepare_cached("select node, started_at from nodes where heartbeat_at > ?1")?;
        let heard = statement.query_map([self.opened_at], |row| {
            Ok((row.get::<_, NodeId>(0)?, row.get::<_, Timestamp>(1)?))
        })?;
        for other in heard {
            let (node, started_at) = other?;
            if self.own().contains_key(&node) {
                continue;
            }
            if started_at < self.opened_at {
                let reason = format!(
                    "another server, node {node}, uses the same file and started before this one; only one server may use it \
                     at a time"
                );
                self.health.break_down(&reason);
                return Err(CallError::Refused(StoreError::Unavailable {
                    attempted: "renew leases",
                    source: anyhow::Error::msg(reason),
                }));
            }
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::error!(%node, "another server uses the same file; it started after this one and must end");
            }
        }
        Ok(())
    }

    fn own(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Timestamp>> {
        self.own.lock().expect("no code panics while it holds this lock")
    }
}
