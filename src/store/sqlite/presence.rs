//! Notices another server in the file. The lock beside it keeps others out; one that came in all the same, by another mount
//! or on a file system without locks, shows by its heartbeats.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::failure::State;
use super::group::{CallError, Group};
use crate::lease::NodeId;
use crate::store::StoreError;
use crate::time::Timestamp;

/// The nodes of this process, and when it opened the file.
pub(super) struct Presence {
    opened_at: Timestamp,
    state: Arc<State>,
    /// This process's nodes, with the time each began. A server that opens the file later takes them off the list.
    own: Mutex<HashMap<NodeId, Timestamp>>,
    warned: AtomicBool,
}

impl Presence {
    pub fn new(opened_at: Timestamp, state: Arc<State>) -> Presence {
        Presence {
            opened_at,
            state,
            own: Mutex::default(),
            warned: AtomicBool::new(false),
        }
    }

    /// Returns the time when the node began, which is now if the node is new.
    pub fn began(&self, node: NodeId, now: Timestamp) -> Timestamp {
        *self.own().entry(node).or_insert(now)
    }

    pub fn left(&self, node: NodeId) {
        self.own().remove(&node);
    }

    /// Refuses to go on beside a server that had the file before: of two the later one ends.
    pub fn require_alone(&self, group: &Group<'_>) -> Result<(), CallError> {
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
                    "another server, node {node}, works on the same file and began before this one; one server at a time \
                     may have it"
                );
                self.state.break_down(&reason);
                return Err(CallError::Refused(StoreError::Unavailable {
                    attempted: "renew leases",
                    source: anyhow::Error::msg(reason),
                }));
            }
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::error!(%node, "another server works on the same file; it began after this one and is to end");
            }
        }
        Ok(())
    }

    fn own(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Timestamp>> {
        self.own.lock().expect("no code panics while it holds this lock")
    }
}
