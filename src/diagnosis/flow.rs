//! Rules about the start of orders: the queue stands still, or is too slow.

use super::{BEHIND, Finding, Rule, STANDSTILL, Settings, Severity, counted, finding, shown};
use crate::lease::ProcessorKind;
use crate::store::{Breaker, Node, Vitals};

pub(super) fn judge(vitals: &Vitals, settings: &Settings, findings: &mut Vec<Finding>) {
    let queue = &vitals.queue;
    let open = queue.counters.active();
    if let Some(pause) = &queue.pause {
        let age = shown(vitals.read_at.since(pause.at));
        let found = finding(
            Rule::Paused,
            Severity::Fail,
            format!("the queue has been paused for {age}, {}", waiting(vitals)),
            "`orderly resume` starts orders again",
        );
        findings.push(match &pause.reason {
            Some(reason) => found.because(reason.as_str()),
            None => {
                found.because("no reason was given; the log of the node that was asked names the request")
            }
        });
        return;
    }
    let alive: Vec<&Node> = queue.nodes.iter().filter(|node| node.alive).collect();
    if alive.is_empty() {
        // Nodes of a serverless database leave the list to sleep, and then no order can be processed.
        if open > 0 {
            let what = format!("no node is alive, {} open", counted(open, "order"));
            findings.push(finding(
                Rule::NoNode,
                Severity::Fail,
                what,
                "start `orderly serve`; if one runs, its log says why it cannot reach the store",
            ));
        }
        return;
    }
    let agreeing: Vec<&Node> = alive.iter().copied().filter(|node| node.agrees).collect();
    if agreeing.len() < alive.len() {
        differs(&alive, findings);
    }
    if agreeing.is_empty() {
        return;
    }
    let down = agreeing
        .iter()
        .filter(|node| node.breaker == Breaker::Open)
        .count();
    if down > 0 {
        let severity = if down == agreeing.len() {
            Severity::Fail
        } else {
            Severity::Warn
        };
        let what = format!(
            "the service that processes orders is down or refuses them, as seen by {down} of {}; {}",
            counted(agreeing.len() as u64, "node"),
            waiting(vitals)
        );
        findings.push(finding(
            Rule::ServiceDown,
            severity,
            what,
            "bring the service back: nodes retry every few seconds and go on by themselves; `orderly queue` and the log \
             name its last answer",
        ));
        return;
    }
    standing(vitals, settings, &agreeing, findings);
}

/// Judges a queue whose nodes could work.
fn standing(vitals: &Vitals, settings: &Settings, nodes: &[&Node], findings: &mut Vec<Finding>) {
    let Some(oldest) = vitals.queue.oldest_waiting.filter(|age| *age >= STANDSTILL) else {
        return;
    };
    let since_start = vitals.last_start_at().map(|at| vitals.read_at.since(at));
    let starts = since_start.is_some_and(|age| age < STANDSTILL);
    let slots: u64 = nodes.iter().map(|node| u64::from(node.slots)).sum();
    let busy: u64 = nodes
        .iter()
        .map(|node| u64::from(node.busy.min(node.slots)))
        .sum();
    let pulls = nodes
        .iter()
        .all(|node| node.processor == Some(ProcessorKind::Pull));
    let last_start = since_start.map_or_else(
        || "no live node has started any".to_owned(),
        |age| format!("the last start was {} ago", shown(age)),
    );
    if starts {
        if oldest >= BEHIND && vitals.activity.accepted > vitals.activity.started {
            findings.push(behind(vitals, settings, nodes, (slots, busy)));
        }
    } else if pulls && vitals.running_outside > 0 {
        findings.push(
            finding(
                Rule::Behind,
                Severity::Warn,
                format!("{}, {last_start}", waiting(vitals)),
                "add workers, or let them take more orders at a time",
            )
            .because(format!(
                "external workers have {}",
                counted(vitals.running_outside, "order")
            )),
        );
    } else if pulls {
        let (cause, action) = match vitals.activity.leases_refused {
            0 => (
                "orders go to external workers, and none asks for them".to_owned(),
                "start the workers, or look at their log: they must ask POST /leases",
            ),
            refused => (
                format!(
                    "{} for leases had a wrong key in the last 5 minutes",
                    counted(refused, "request")
                ),
                "give the workers a valid key: POST /leases answers them 401",
            ),
        };
        let what = format!("{}, {last_start}", waiting(vitals));
        findings.push(finding(Rule::NoWorker, Severity::Fail, what, action).because(cause));
    } else if busy >= slots {
        let cause = vitals.oldest_running.as_ref().map(|running| {
            format!(
                "order {} has been in processing for {}",
                running.order_id,
                shown(running.age)
            )
        });
        let finding = finding(
            Rule::SlotsFull,
            Severity::Fail,
            format!(
                "all {} are taken, {}, {last_start}",
                counted(slots, "slot"),
                waiting(vitals)
            ),
            "look at what the service does with these orders (`orderly orders list --status Processing`); \
             ORDERLY_ATTEMPT_TIMEOUT and ORDERLY_PROCESSOR_RESPONSE_TIMEOUT bound an attempt, ORDERLY_CONCURRENCY adds slots",
        );
        findings.push(match cause {
            Some(cause) => finding.because(cause),
            None => finding,
        });
    } else if !findings.iter().any(|known| known.rule == Rule::Locked) {
        // Otherwise the session that holds the locks is the cause.
        let finding = finding(
            Rule::Standstill,
            Severity::Fail,
            format!(
                "{} although {busy} of {} are busy; {last_start}",
                waiting(vitals),
                counted(slots, "slot")
            ),
            "`orderly orders explain ID` of the oldest, and the log of the nodes (`cannot claim`)",
        );
        findings.push(match settings.rate_limit {
            Some(limit) if limit * STANDSTILL.as_secs_f64() < 2.0 => {
                finding.because(format!("ORDERLY_RATE_LIMIT allows {limit} starts a second"))
            }
            _ => finding,
        });
    }
}

/// Orders start, but fewer than come.
fn behind(vitals: &Vitals, settings: &Settings, nodes: &[&Node], (slots, busy): (u64, u64)) -> Finding {
    let activity = &vitals.activity;
    let what = format!(
        "orders come faster than they start: {} accepted and {} started in the last 5 minutes, {}",
        activity.accepted,
        activity.started,
        waiting(vitals)
    );
    if let Some(limit) = settings.rate_limit
        && busy < slots
    {
        return finding(
            Rule::Behind,
            Severity::Warn,
            what,
            "raise ORDERLY_RATE_LIMIT if the service can take more",
        )
        .because(format!(
            "ORDERLY_RATE_LIMIT allows {limit} starts a second on each of {}",
            counted(nodes.len() as u64, "node")
        ));
    }
    finding(
        Rule::Behind,
        Severity::Warn,
        what,
        "raise ORDERLY_CONCURRENCY or add nodes, unless the service itself is at its limit",
    )
    .because(format!("{busy} of {} are busy", counted(slots, "slot")))
}

/// Names live nodes that start nothing because of their settings.
fn differs(alive: &[&Node], findings: &mut Vec<Finding>) {
    let kind = |node: &Node| node.processor.map_or("unknown", ProcessorKind::name);
    // A node with the processor of the others differs in the other setting that all must share.
    let setting = match alive.iter().find(|node| node.agrees) {
        Some(other) if alive.iter().all(|node| node.processor == other.processor) => "ORDERLY_ORDERING",
        Some(other)
            if alive
                .iter()
                .all(|node| node.agrees || node.processor != other.processor) =>
        {
            "ORDERLY_PROCESSOR"
        }
        Some(_) | None => "ORDERLY_PROCESSOR or ORDERLY_ORDERING",
    };
    let (odd, others): (Vec<&Node>, Vec<&Node>) = alive.iter().copied().partition(|node| !node.agrees);
    let named: Vec<String> = odd
        .iter()
        .map(|node| format!("{} (ORDERLY_PROCESSOR={})", node.name, kind(node)))
        .collect();
    let store = match others.first() {
        Some(other) => format!(
            "those of the other live nodes, such as {} ({})",
            other.name,
            kind(other)
        ),
        None => "the store's".to_owned(),
    };
    let severity = if others.is_empty() {
        Severity::Fail
    } else {
        Severity::Warn
    };
    findings.push(finding(
        Rule::NodeDiffers,
        severity,
        format!(
            "{} starts no orders: its {setting} differs from {store}",
            named.join(", ")
        ),
        "give all nodes the same settings and restart the ones that differ",
    ));
}

/// Writes the number of orders that wait, and the longest wait.
fn waiting(vitals: &Vitals) -> String {
    let queue = &vitals.queue;
    let pending = counted(queue.counters.waiting(), "order");
    let verb = if queue.counters.waiting() == 1 {
        "waits"
    } else {
        "wait"
    };
    match queue.oldest_waiting {
        Some(age) if age >= STANDSTILL => format!("{pending} {verb}, the oldest for {}", shown(age)),
        _ => format!("{pending} {verb}"),
    }
}

/// Returns the remedy against the last answer of a service that is down or refuses orders, if it is not simply down.
pub fn remedy_of_service(trouble: &str) -> Option<&'static str> {
    let has_status = |statuses: &[&str]| statuses.iter().any(|status| trouble.contains(status));
    if has_status(&[" 401", " 403", " 407"]) {
        Some(
            "the service runs and refuses this server: compare ORDERLY_PROCESSOR_SECRET on both sides, or correct what the service \
             expects; nodes retry every few seconds, and each such answer counts as an attempt",
        )
    } else if has_status(&[" 404", " 405"]) {
        Some(
            "the service runs and has no such address: correct ORDERLY_PROCESSOR_URL, then restart the nodes",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_refuses_this_server_is_told_from_one_that_is_down() {
        let remedy = |trouble| remedy_of_service(trouble).unwrap_or_default();
        assert!(remedy("the service answered 401: wrong signature").contains("ORDERLY_PROCESSOR_SECRET"));
        assert!(remedy("the service answered 404").contains("ORDERLY_PROCESSOR_URL"));
        assert_eq!(remedy_of_service("the service answered 503"), None);
    }
}
