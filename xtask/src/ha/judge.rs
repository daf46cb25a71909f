//! Judges a trial: compares the answers that clients got with the stored orders and events.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::follower::{EventId, Heard};
use super::load::{Look, Placed};
use super::scenario::{Failure, Scenario};
use super::way::Way;

/// Kinds of events that end an order.
const ENDS: [&str; 3] = ["completed", "failed", "cancelled"];

/// Content of the store after a trial.
pub struct Stored {
    /// Reference and id of each order.
    pub orders: Vec<(String, u64)>,
    /// All events in feed order.
    pub events: Vec<EventId>,
}

/// Observations of a node's clients, and the node's exit code.
pub struct Seen {
    pub way: Way,
    pub placed: Vec<Placed>,
    pub looks: Vec<Look>,
    pub heard: Heard,
    pub verify: (Option<i32>, String),
    pub exit: Option<i32>,
}

/// One line of the table.
pub struct Row {
    pub scenario: Scenario,
    pub way: Way,
    /// Time from the failure until a primary can store again.
    pub leads: Duration,
    /// Longest time without a new 201.
    pub pause: Duration,
    /// Longest part of such a time after a primary can store again.
    pub pause_after: Duration,
    pub accepted: usize,
    /// Number of answers other than 201 by status; "none" for no answer.
    pub refusals: BTreeMap<String, usize>,
    pub slowest: Duration,
    pub lost: usize,
    /// Number of orders acknowledged while no standby could have them.
    pub unsafe_acknowledged: usize,
    pub stored_twice: usize,
    pub ended_twice: usize,
    pub not_ended: usize,
    pub feed_missing: usize,
    pub feed_twice: usize,
    /// Number of events delivered to clients that do not exist.
    pub feed_untrue: usize,
    pub resyncs: usize,
    /// Time for which `/readyz` answered 200 while nothing was stored.
    pub ready_in_vain: Duration,
    pub broken: Vec<String>,
}

pub fn judge(scenario: Scenario, failure: &Failure, seen: &Seen, stored: &Stored) -> Row {
    let over = failure.over_for(seen.way);
    let mut stored_ids: HashMap<&str, HashSet<u64>> = HashMap::new();
    for (reference, id) in &stored.orders {
        stored_ids.entry(reference).or_default().insert(*id);
    }
    let answered = seen.placed.iter().filter_map(Placed::accepted);
    let accepted = answered.clone().count();
    // Ends the wait for an order that was never accepted.
    let given_up = seen.placed.iter().filter(|placed| placed.accepted().is_none());
    let given_up = given_up.filter_map(|placed| placed.attempts.last());
    let arrivals = answered.chain(given_up).map(|attempt| attempt.answered);
    let mut arrivals: Vec<Instant> = arrivals.collect();
    arrivals.sort();
    let (pause, pause_after) = pauses(&arrivals, failure.began, over);
    let is_lost = |placed: &&Placed| {
        let delivered = placed.accepted().map(|attempt| attempt.order_id);
        delivered.is_some_and(|delivered| {
            let stored = stored_ids.get(placed.reference.as_str());
            delivered.is_none_or(|id| !stored.is_some_and(|ids| ids.contains(&id)))
        })
    };
    let is_twice = |placed: &&Placed| {
        stored_ids
            .get(placed.reference.as_str())
            .is_some_and(|ids| ids.len() > 1)
    };
    let is_unsafe = |placed: &&Placed| {
        let attempt = placed.accepted().zip(failure.without_standby);
        attempt.is_some_and(|(attempt, (from, to))| attempt.sent > from && attempt.answered < to)
    };
    let (ended_twice, not_ended) = ends(stored);
    let (feed_missing, feed_twice, feed_untrue) = compare_feeds(&stored.events, &seen.heard.events);
    let mut row = Row {
        scenario,
        way: seen.way,
        leads: over - failure.began,
        pause,
        pause_after,
        accepted,
        refusals: refusals(&seen.placed),
        slowest: slowest(&seen.placed),
        lost: seen.placed.iter().filter(is_lost).count(),
        unsafe_acknowledged: seen.placed.iter().filter(is_unsafe).count(),
        stored_twice: seen.placed.iter().filter(is_twice).count(),
        ended_twice,
        not_ended,
        feed_missing,
        feed_twice,
        feed_untrue,
        resyncs: seen.heard.resyncs,
        ready_in_vain: ready_in_vain(&seen.looks, &arrivals, failure.began),
        broken: Vec::new(),
    };
    row.broken = broken(&row, seen);
    row
}

/// Returns the longest interval between two instants that ends after `began`, and the longest part of one after `over`.
fn pauses(instants: &[Instant], began: Instant, over: Instant) -> (Duration, Duration) {
    let after = |from: Instant| {
        let lengths = instants
            .windows(2)
            .filter(move |pair| pair[1] > from)
            .map(move |pair| pair[1] - pair[0].max(from));
        lengths.max().unwrap_or_default()
    };
    (after(began), after(over))
}

/// Counts the orders that ended more than once, and those that did not end.
fn ends(stored: &Stored) -> (usize, usize) {
    let mut ends: HashMap<u64, usize> = stored.orders.iter().map(|(_, id)| (*id, 0)).collect();
    for event in &stored.events {
        if ENDS.contains(&event.kind.as_str()) {
            *ends.entry(event.order_id).or_default() += 1;
        }
    }
    let twice = ends.values().filter(|ends| **ends > 1).count();
    let never = ends.values().filter(|ends| **ends == 0).count();
    (twice, never)
}

/// Counts stored events that were not delivered, events delivered more than once, and delivered events that are not
/// stored.
fn compare_feeds(stored: &[EventId], heard: &[EventId]) -> (usize, usize, usize) {
    let mut times: HashMap<&EventId, usize> = HashMap::new();
    for event in heard {
        *times.entry(event).or_default() += 1;
    }
    let stored: HashSet<&EventId> = stored.iter().collect();
    let missing = stored.iter().filter(|event| !times.contains_key(*event)).count();
    let twice = times.values().filter(|times| **times > 1).count();
    let untrue = times.keys().filter(|event| !stored.contains(*event)).count();
    (missing, twice, untrue)
}

fn refusals(placed: &[Placed]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for attempt in placed.iter().flat_map(|placed| &placed.attempts) {
        if attempt.status != Some(201) {
            let status = attempt
                .status
                .map_or("none".to_owned(), |status| status.to_string());
            *counts.entry(status).or_default() += 1;
        }
    }
    counts
}

fn slowest(placed: &[Placed]) -> Duration {
    let attempts = placed.iter().flat_map(|placed| &placed.attempts);
    let times = attempts.map(|attempt| attempt.answered - attempt.sent);
    times.max().unwrap_or_default()
}

/// Adds up the times from a check that answered ready to the next check, within the longest pause.
fn ready_in_vain(looks: &[Look], arrivals: &[Instant], began: Instant) -> Duration {
    let pauses = arrivals.windows(2).filter(|pair| pair[1] > began);
    let Some(pause) = pauses.max_by_key(|pair| pair[1] - pair[0]) else {
        return Duration::ZERO;
    };
    looks
        .windows(2)
        .filter(|pair| pair[0].ready && pair[0].at > pause[0] && pair[1].at < pause[1])
        .map(|pair| pair[1].at - pair[0].at)
        .sum()
}

fn broken(row: &Row, seen: &Seen) -> Vec<String> {
    let mut broken = Vec::new();
    let mut want_none = |count: usize, what: &str| {
        if count > 0 {
            broken.push(format!("{count} {what}"));
        }
    };
    want_none(row.lost, "acknowledged orders lost");
    want_none(row.unsafe_acknowledged, "orders acknowledged that no standby had");
    want_none(row.stored_twice, "orders stored twice");
    want_none(row.ended_twice, "orders ended twice");
    want_none(row.not_ended, "orders not ended");
    want_none(row.feed_missing, "events missing in the feed");
    want_none(row.feed_twice, "events delivered twice");
    want_none(row.feed_untrue, "events delivered that do not exist");
    want_none(row.resyncs, "resyncs, though nothing was lost");
    let unanswered = seen.placed.iter().filter(|placed| placed.accepted().is_none());
    want_none(unanswered.count(), "orders never accepted");
    // Clients repeat on these answers; any other is wrong.
    for (status, count) in &row.refusals {
        if !["500", "503", "504", "409", "none"].contains(&status.as_str()) {
            broken.push(format!("{count} answers {status}"));
        }
    }
    let bar = row.way.pause_max();
    if row.pause_after > bar {
        broken.push(format!(
            "{:.1} s without a 201 after a primary was back, at most {} s",
            row.pause_after.as_secs_f64(),
            bar.as_secs()
        ));
    }
    if seen.verify.0 != Some(0) {
        broken.push(format!(
            "orderly verify: {:?}, {}",
            seen.verify.0,
            seen.verify.1.trim()
        ));
    }
    if seen.exit != Some(0) {
        broken.push(format!("SIGTERM ended orderly with {:?}", seen.exit));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::super::load::Attempt;
    use super::*;

    fn delivered(order_id: u64, version: u64, kind: &str) -> EventId {
        EventId {
            order_id,
            version,
            kind: kind.to_owned(),
        }
    }

    /// Returns a trial with one correct order: accepted a second after the failure, completed, delivered.
    fn kept() -> (Failure, Seen, Stored) {
        let began = Instant::now();
        let accepted = Attempt {
            sent: began,
            answered: began + Duration::from_secs(1),
            status: Some(201),
            order_id: Some(7),
        };
        let placed = Placed {
            reference: "a".to_owned(),
            attempts: vec![accepted],
        };
        let events = vec![delivered(7, 1, "accepted"), delivered(7, 2, "completed")];
        let heard = Heard {
            events: events.clone(),
            resyncs: 0,
        };
        let seen = Seen {
            way: Way::Hosts,
            placed: vec![placed],
            looks: Vec::new(),
            heard,
            verify: (Some(0), String::new()),
            exit: Some(0),
        };
        let failure = Failure::nothing(began);
        let orders = vec![("a".to_owned(), 7)];
        (failure, seen, Stored { orders, events })
    }

    fn broken(spoil: impl FnOnce(&mut Seen, &mut Stored)) -> Vec<String> {
        let (failure, mut seen, mut stored) = kept();
        spoil(&mut seen, &mut stored);
        judge(Scenario::Switchover, &failure, &seen, &stored).broken
    }

    #[test]
    fn kept_promises_are_not_broken() {
        assert_eq!(broken(|_, _| {}), [""; 0]);
    }

    #[test]
    fn every_broken_promise_is_named() {
        type Spoil = fn(&mut Seen, &mut Stored);
        let spoilt: [(Spoil, &str); 10] = [
            (|_, stored| stored.orders[0].1 = 8, "lost"),
            (
                |_, stored| stored.orders.push(("a".to_owned(), 8)),
                "stored twice",
            ),
            (
                |_, stored| stored.events.push(delivered(7, 3, "failed")),
                "ended twice",
            ),
            (|_, stored| drop(stored.events.pop()), "not ended"),
            (|seen, _| drop(seen.heard.events.pop()), "missing in the feed"),
            (
                |seen, _| seen.heard.events.push(delivered(7, 1, "accepted")),
                "delivered twice",
            ),
            (
                |seen, _| seen.heard.events.push(delivered(9, 1, "accepted")),
                "do not exist",
            ),
            (
                |seen, _| seen.placed[0].attempts[0].status = None,
                "never accepted",
            ),
            (|seen, _| seen.verify.0 = Some(1), "orderly verify"),
            (|seen, _| seen.exit = None, "SIGTERM"),
        ];
        for (spoil, named) in spoilt {
            let broken = broken(spoil);
            assert!(
                broken.iter().any(|line| line.contains(named)),
                "{named}: {broken:?}"
            );
        }
    }

    #[test]
    fn an_order_acknowledged_without_a_standby_is_named() {
        let (mut failure, seen, stored) = kept();
        let before = failure.began - Duration::from_secs(1);
        failure.without_standby = Some((before, failure.began + Duration::from_secs(2)));
        let row = judge(Scenario::StrictNoStandby, &failure, &seen, &stored);
        assert_eq!(row.broken, ["1 orders acknowledged that no standby had"]);
    }

    #[test]
    fn only_the_part_of_a_pause_after_the_new_leader_counts() {
        let began = Instant::now();
        let seconds = |seconds| began + Duration::from_secs(seconds);
        let arrivals = [seconds(0), seconds(1), seconds(21), seconds(23), seconds(24)];
        let (whole, after) = pauses(&arrivals, seconds(1), seconds(19));
        assert_eq!((whole, after), (Duration::from_secs(20), Duration::from_secs(2)));
    }
}
