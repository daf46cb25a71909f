//! Rules about orders that started: they fail, take too long, lose their leases, or block others.

use std::time::Duration;

use super::{
    BLOCKED_LONG, FAILED_MIN, FAILED_PERCENT, Finding, Rule, SLOW_FACTOR, SLOW_MIN, Severity, counted,
    finding, shown,
};
use crate::lease::NO_ANSWER;
use crate::order::OrderStatus;
use crate::store::Vitals;

pub(super) fn judge(vitals: &Vitals, findings: &mut Vec<Finding>) {
    findings.extend(many_failed(vitals));
    // These say why the order does not end.
    let is_told = |known: &Finding| matches!(known.rule, Rule::SlotsFull | Rule::NoNode);
    if !findings.iter().any(is_told) {
        findings.extend(slow(vitals));
    }
    findings.extend(no_answer(vitals));
    findings.extend(leases_lost(vitals));
    findings.extend(user_blocked(vitals));
}

fn many_failed(vitals: &Vitals) -> Option<Finding> {
    let activity = &vitals.activity;
    let ended = activity.failed + activity.completed;
    let too_many = activity.failed >= FAILED_MIN && activity.failed * 100 > ended * FAILED_PERCENT;
    if !too_many {
        return None;
    }
    let what = format!(
        "{} of {ended} orders failed for good in the last 5 minutes",
        activity.failed
    );
    let group = vitals.failures.first();
    let reason = group.map_or("", |group| group.error.as_str());
    let found = finding(Rule::ManyFailed, Severity::Fail, what, remedy(reason));
    Some(match group {
        Some(group) => found.because(format!(
            "most often: {} ({} of the latest, last order {})",
            group.error,
            counted(group.orders, "order"),
            group.order_id
        )),
        None => found,
    })
}

/// Returns what helps against a reason for which orders fail.
fn remedy(reason: &str) -> &'static str {
    const RETRY: &str = "mend the service, then `orderly orders retry --failed`";
    if reason.contains(" 401") || reason.contains(" 403") {
        "the service refuses this server: correct ORDERLY_PROCESSOR_SECRET or what the service expects, then \
         `orderly orders retry --failed`"
    } else if reason.contains(" 404") || reason.contains(" 405") {
        "correct ORDERLY_PROCESSOR_URL, then `orderly orders retry --failed`"
    } else if reason.starts_with(NO_ANSWER) {
        "the service broke off: these orders may crash it; look at their items and at the log of the service, then \
         `orderly orders retry --failed`"
    } else if reason.contains(" 400") || reason.contains(" 409") || reason.contains(" 422") {
        "the service refuses these orders: look whether it is right; mend what it lacks, then `orderly orders retry --failed`, or cancel \
         them"
    } else if reason.starts_with("poison") {
        "these orders make nodes or workers fall silent: find out why (out of memory, a crash), then retry or cancel them"
    } else {
        RETRY
    }
}

/// Time in processing that is suspicious on this store.
fn slow_from(vitals: &Vitals) -> Duration {
    let counters = &vitals.queue.counters;
    let mean = counters
        .processing_micros
        .checked_div(counters.completed)
        .unwrap_or(0);
    SLOW_MIN.max(Duration::from_micros(mean).saturating_mul(SLOW_FACTOR))
}

fn slow(vitals: &Vitals) -> Option<Finding> {
    let running = vitals
        .oldest_running
        .as_ref()
        .filter(|running| running.age > slow_from(vitals))?;
    let (order, age) = (running.order_id, shown(running.age));
    if running.outside {
        return Some(finding(
            Rule::NoReport,
            Severity::Warn,
            format!(
                "{} at external workers or a service that answered 202, order {order} for {age} without a report",
                counted(vitals.running_outside, "order")
            ),
            "look at the worker or service: it must report with POST /leases/{id}/complete or fail before the lease ends; \
             otherwise the order is given to another one",
        ));
    }
    let node = vitals.queue.nodes.iter().find(|node| node.node == running.node);
    let node = node.map_or_else(|| running.node.to_string(), |node| node.name.clone());
    Some(finding(
        Rule::SlowOrder,
        Severity::Warn,
        format!("order {order} has been in processing for {age} on node {node}"),
        format!(
            "`orderly orders get {order}`; if the service hangs on it, `orderly orders cancel {order}`; \
             ORDERLY_ATTEMPT_TIMEOUT ends the attempt"
        ),
    ))
}

fn no_answer(vitals: &Vitals) -> Option<Finding> {
    let first = vitals.unanswered.first()?;
    let named: Vec<String> = vitals
        .unanswered
        .iter()
        .map(|order| format!("{} ({} attempts)", order.order_id, order.attempts))
        .collect();
    Some(finding(
        Rule::NoAnswer,
        Severity::Warn,
        format!(
            "the service broke off without an answer, again and again, at order {}",
            named.join(", ")
        ),
        format!(
            "the order may crash the service: look at its items (`orderly orders get {id}`) and at the log of the service; \
             `orderly orders cancel {id}` gives up on it",
            id = first.order_id
        ),
    ))
}

fn leases_lost(vitals: &Vitals) -> Option<Finding> {
    let first = vitals.suspects.first()?;
    let named: Vec<String> = vitals.suspects.iter().map(ToString::to_string).collect();
    Some(finding(
        Rule::LeasesLost,
        Severity::Warn,
        format!(
            "nodes or workers fell silent twice or more while they had order {}; {} lost in the last 5 minutes",
            named.join(", "),
            counted(vitals.activity.leases_lost, "lease")
        ),
        format!(
            "the order may crash what processes it: look at its items (`orderly orders get {first}`) and at the log of the \
             worker; cancel it, or it is Failed as poisoned"
        ),
    ))
}

fn user_blocked(vitals: &Vitals) -> Option<Finding> {
    let blocking = vitals
        .blocking
        .iter()
        .find(|blocking| blocking.status == OrderStatus::Failed)
        .or_else(|| {
            let long = vitals
                .queue
                .blocked
                .oldest_age
                .is_some_and(|age| age > BLOCKED_LONG);
            let first = vitals.blocking.first();
            first.filter(|first| long && (first.backing_off || first.set_aside))
        })?;
    let (order, waiting) = (blocking.order_id, counted(blocking.orders, "order"));
    Some(if blocking.status == OrderStatus::Failed {
        finding(
            Rule::UserBlocked,
            Severity::Warn,
            format!("order {order} failed and keeps {waiting} of its user waiting"),
            format!("`orderly orders retry {order}` or `orderly orders cancel {order}`"),
        )
    } else if blocking.set_aside {
        finding(
            Rule::UserBlocked,
            Severity::Warn,
            format!("order {order} is held or scheduled and keeps {waiting} of its user waiting"),
            format!(
                "`orderly orders release {order}` if it is held, `orderly orders retry {order}` if it is scheduled; or \
                 ORDERLY_ORDERING_ON_HOLD=skip"
            ),
        )
    } else {
        finding(
            Rule::UserBlocked,
            Severity::Warn,
            format!("order {order} waits for its next attempt and keeps {waiting} of its user waiting"),
            format!(
                "`orderly orders retry {order}` tries it at once, `orderly orders cancel {order}` gives up on it"
            ),
        )
    })
}
