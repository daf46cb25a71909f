//! Checks that a shared database allows the connections its nodes want.

use super::Check;
use crate::store::QueueState;
use crate::store::snapshot::Room;

const NAME: &str = "connections";
const ADVICE: &str = "raise that limit (`alter role … connection limit …`, max_connections), or run fewer nodes: with fewer \
     connections a node works more slowly";

/// Counts live nodes; at least the one about to start.
pub fn judge(room: &Room, queue: &QueueState) -> Check {
    let nodes = queue.nodes.iter().filter(|node| node.alive).count().max(1);
    match room.shortage(nodes) {
        None => Check::ok(
            NAME,
            format!("{} allowed, {} wanted", room.allowed, nodes * room.node_wants),
        ),
        Some(shortage) if room.suffices(nodes) => Check::warn(NAME, shortage, ADVICE),
        Some(shortage) => Check::fail(NAME, shortage, ADVICE),
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
            paused: false,
            oldest_waiting: None,
            blocked: Blocked::default(),
            nodes: Vec::new(),
        };
        let judged = |allowed| {
            let room = Room {
                allowed,
                setting: "the connection limit of this role".to_owned(),
                node_wants: 15,
                node_needs: 3,
            };
            judge(&room, &queue)
        };
        assert_eq!(judged(15).state, State::Ok);
        let few = judged(12);
        assert_eq!(few.state, State::Warn);
        assert_eq!(
            few.finding,
            "the connection limit of this role allows 12 connections, 1 node wants up to 15 and at least 3"
        );
        assert_eq!(judged(2).state, State::Fail);
    }
}
