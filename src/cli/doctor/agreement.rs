//! Checks that all live nodes have the same processor and ordering; a node that differs starts no orders.

use super::Finding;
use crate::lease::ProcessorKind;
use crate::store::{Node, QueueState};

/// Returns `None` if the nodes agree.
pub(super) fn judge(queue: &QueueState) -> Option<Finding> {
    let differ = queue.nodes.iter().filter(|node| node.alive && !node.agrees);
    let findings: Vec<String> = differ.map(finding).collect();
    (!findings.is_empty()).then(|| {
        let advice = "give all nodes of a store the same ORDERLY_PROCESSOR, ORDERLY_ORDERING and \
                      ORDERLY_ORDERING_ON_FAILURE; to change one of them, stop the nodes with the old value";
        Finding::fail(findings.join("; "), advice)
    })
}

fn finding(node: &Node) -> String {
    let processor = node.processor.map_or("unknown", ProcessorKind::name);
    format!(
        "node {} (processor {processor}) has another processor or ordering than the other live nodes and starts no orders",
        node.node
    )
}
