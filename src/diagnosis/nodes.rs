//! Rules about single nodes: silent, with a clock that is off, or of another version.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{CLOCK_OFF, Finding, Rule, Severity, UPGRADE_MAX, finding, shown};
use crate::store::{Node, Vitals};

pub(super) fn judge(vitals: &Vitals, findings: &mut Vec<Finding>) {
    let nodes = &vitals.queue.nodes;
    let alive: Vec<&Node> = nodes.iter().filter(|node| node.alive).collect();
    // Where no node is alive, that is the finding.
    let silent = nodes.iter().filter(|node| !node.alive && !alive.is_empty());
    for node in silent {
        let age = shown(vitals.read_at.since(node.heartbeat_at));
        findings.push(finding(
            Rule::NodeSilent,
            Severity::Warn,
            format!("node {} ({}) has been silent for {age}", node.name, node.node),
            "frozen, dead or cut off from the database: look at the machine; its orders went to the other nodes",
        ));
    }
    findings.extend(alive.iter().filter_map(|node| clock(node)));
    findings.extend(versions(vitals, &alive));
}

fn clock(node: &Node) -> Option<Finding> {
    let micros = node.clock_ahead_micros?;
    let off = Duration::from_micros(micros.unsigned_abs());
    (off > CLOCK_OFF).then(|| {
        let direction = if micros > 0 { "ahead of" } else { "behind" };
        finding(
            Rule::ClockOff,
            Severity::Warn,
            format!("the clock of node {} is {} {direction} the database's", node.name, shown(off)),
            "set the clock of that machine (or the database's): times in the node's log and in the signatures of its \
             deliveries are wrong, and services may refuse them",
        )
    })
}

fn versions(vitals: &Vitals, alive: &[&Node]) -> Option<Finding> {
    let versions: BTreeSet<&str> = alive.iter().map(|node| node.version.as_str()).collect();
    let upgrade_is_over = alive
        .iter()
        .all(|node| vitals.read_at.since(node.started_at) > UPGRADE_MAX);
    (versions.len() > 1 && upgrade_is_over).then(|| {
        let versions: Vec<&str> = versions.into_iter().collect();
        finding(
            Rule::VersionsDiffer,
            Severity::Warn,
            format!("nodes run different versions: {}", versions.join(", ")),
            "finish the upgrade: `orderly queue` shows each node's version",
        )
    })
}
