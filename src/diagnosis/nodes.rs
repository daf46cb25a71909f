//! Rules about nodes: silent, with a clock that is off, of another version, or without their Redis.

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
    findings.extend(redis(vitals));
}

fn redis(vitals: &Vitals) -> Option<Finding> {
    let trouble = vitals.queue.handout.as_ref()?.trouble.as_ref()?;
    let found = finding(
        Rule::RedisAway,
        Severity::Warn,
        "Redis cannot be used: nodes claim from the database, and orders go on",
        "bring Redis back, or correct REDIS_URL; nodes use it again by themselves",
    );
    Some(found.because(trouble))
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

#[cfg(test)]
mod tests {
    use crate::diagnosis::tests::{ago, first, healthy, rules};
    use crate::store::HandoutStatus;

    #[test]
    fn a_silent_node_is_named() {
        let mut vitals = healthy();
        vitals.queue.nodes[1].alive = false;
        vitals.queue.nodes[1].heartbeat_at = ago(63);
        assert_eq!(rules(&vitals), ["node-silent"]);
        let what = first(&vitals).what;
        assert!(what.contains("shop-2") && what.contains("1m 3s"), "{what}");
    }

    #[test]
    fn a_redis_that_cannot_be_used_is_named_with_its_reason() {
        let mut vitals = healthy();
        vitals.queue.handout = Some(HandoutStatus::default());
        assert_eq!(rules(&vitals), [""; 0]);
        vitals.queue.handout = Some(HandoutStatus {
            trouble: Some("NOAUTH".to_owned()),
            ..HandoutStatus::default()
        });
        assert_eq!(rules(&vitals), ["redis-away"]);
        assert_eq!(first(&vitals).because.as_deref(), Some("NOAUTH"));
    }
}
