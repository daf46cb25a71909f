//! Checks that a shared database allows the connections its nodes want.

use super::Finding;
use crate::store::QueueState;
use crate::store::snapshot::ConnectionBudget;
const ADVICE: &str = "raise that limit (`alter role … connection limit …`, max_connections), or run fewer nodes: with fewer \
     connections a node works more slowly";

/// Counts live nodes; at least the one about to start.
pub fn judge(room: &ConnectionBudget, queue: &QueueState) -> Finding {
    let nodes = queue.nodes.iter().filter(|node| node.alive).count().max(1);
    match room.shortage(nodes) {
        None => Finding::ok(format!(
            "{} allowed, {} wanted",
            room.allowed,
            nodes * room.per_node_max
        )),
        Some(shortage) if room.suffices(nodes) => Finding::warn(shortage, ADVICE),
        Some(shortage) => Finding::fail(shortage, ADVICE),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::store::{Blocked, Counters};

    #[test]
    fn too_few_connections_are_reported_with_the_setting() {
        let queue = QueueState {
            counters: Counters::default(),
            pause: None,
            handout: None,
            oldest_waiting: None,
            blocked: Blocked::default(),
            nodes: Vec::new(),
        };
        let judged = |allowed| {
            let room = ConnectionBudget {
                allowed,
                setting: "the connection limit of this role".to_owned(),
                per_node_max: 15,
                per_node_min: 3,
            };
            judge(&room, &queue)
        };
        assert_eq!(judged(15).state, State::Ok);
        let few = judged(12);
        assert_eq!(few.state, State::Warn);
        assert_eq!(
            few.text,
            "the connection limit of this role allows 12 connections, 1 node wants up to 15 and at least 3"
        );
        assert_eq!(judged(2).state, State::Fail);
    }
}
