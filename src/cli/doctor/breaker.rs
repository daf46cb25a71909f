//! Checks that no breaker keeps a node from claiming orders.

use super::Finding;
use crate::store::{Breaker, Node, QueueState};

pub(super) fn judge(queue: &QueueState) -> Finding {
    let not_closed: Vec<&Node> = queue
        .nodes
        .iter()
        .filter(|node| node.alive && node.breaker != Breaker::Closed)
        .collect();
    if not_closed.is_empty() {
        return Finding::ok("closed on all live nodes");
    }
    let findings: Vec<String> = not_closed.into_iter().map(finding).collect();
    let advice = "bring the processor back: orders stay pending and start again once it recovers; the node's log says how \
                  attempts failed";
    Finding::warn(findings.join("; "), advice)
}

fn finding(node: &Node) -> String {
    let said = match node.breaker {
        Breaker::Closed => "claims orders",
        Breaker::Open => "claims no orders: the processor is down",
        Breaker::HalfOpen => "claims few orders: it is testing whether the processor is back",
    };
    format!("node {} {said}", node.node)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::lease::NodeId;
    use crate::store::{Blocked, Counters};
    use crate::time::Timestamp;

    fn queue(nodes: &[(u64, bool, Breaker)]) -> QueueState {
        let node = |&(node, alive, breaker): &(u64, bool, Breaker)| Node {
            node: NodeId(node),
            slots: 1,
            busy: 0,
            started_at: Timestamp::from_micros(1),
            heartbeat_at: Timestamp::from_micros(1),
            alive,
            breaker,
            processor: None,
            agrees: true,
        };
        QueueState {
            counters: Counters::default(),
            paused: false,
            oldest_waiting: None,
            blocked: Blocked::default(),
            nodes: nodes.iter().map(node).collect(),
        }
    }

    #[test]
    fn nodes_with_an_open_breaker_are_named() {
        let checked = judge(&queue(&[
            (1, true, Breaker::Closed),
            (2, true, Breaker::Open),
            (3, true, Breaker::HalfOpen),
            (4, false, Breaker::Open),
        ]));
        assert_eq!(checked.state, State::Warn);
        assert_eq!(
            checked.text,
            "node 0000000000000002 claims no orders: the processor is down; \
             node 0000000000000003 claims few orders: it is testing whether the processor is back"
        );
        assert_eq!(judge(&queue(&[(1, true, Breaker::Closed)])).state, State::Ok);
        assert_eq!(judge(&queue(&[(1, false, Breaker::Open)])).state, State::Ok);
    }
}
