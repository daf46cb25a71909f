//! Checks that committed events get their positions in the feed in time.

use std::time::Duration;

use super::Finding;
use crate::store::QueueState;
use crate::store::snapshot::{FEED_WAITING_MAX, FeedState, FeedWaiting};

/// A live node numbers events every second, and after failures every 30 seconds.
const WAIT_WARN: Duration = Duration::from_mins(1);

pub(super) fn judge(feed: &FeedState, queue: &QueueState) -> Finding {
    let (before, last) = (feed.bounds.complete_after.0, feed.bounds.last.0);
    let mut positions = if last > before {
        format!("positions {} to {last}", before + 1)
    } else {
        "no events".to_owned()
    };
    let epochs = &feed.bounds.epochs;
    if epochs.all().len() > 1 {
        let newest = epochs.newest();
        let (number, order, after) = (newest.number, newest.first_order_id, newest.after.0);
        positions = format!("{positions}, epoch {number} begins with order {order} after position {after}");
    }
    let Some(waiting) = feed.waiting else {
        return Finding::ok(format!("{positions}, no transaction waits"));
    };
    let finding = format!(
        "{positions}, {} for theirs, the oldest for {}",
        wait(waiting),
        age(waiting)
    );
    // Without a live node events are not numbered; the first node to start does it.
    let is_alive = queue.nodes.iter().any(|node| node.alive);
    if is_alive && waiting.oldest_age > WAIT_WARN {
        let advice = "subscribers get changes late: check the nodes' logs, and the database for a lock or a session that \
                      hangs (pg_locks, pg_stat_activity)";
        Finding::warn(finding, advice)
    } else {
        Finding::ok(finding)
    }
}

fn wait(waiting: FeedWaiting) -> String {
    match waiting.transactions {
        FEED_WAITING_MAX.. => format!("{FEED_WAITING_MAX} transactions or more wait"),
        1 => "1 transaction waits".to_owned(),
        some => format!("{some} transactions wait"),
    }
}

fn age(waiting: FeedWaiting) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(waiting.oldest_age.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::lease::NodeId;
    use crate::order::OrderId;
    use crate::store::{
        Blocked, Breaker, Counters, Epoch, Epochs, FeedBounds, FeedPosition, Node, first_epoch,
    };
    use crate::time::Timestamp;

    fn queue(alive: bool) -> QueueState {
        let node = Node {
            node: NodeId(1),
            slots: 1,
            busy: 0,
            started_at: Timestamp::from_micros(1),
            heartbeat_at: Timestamp::from_micros(1),
            alive,
            breaker: Breaker::Closed,
            processor: None,
            agrees: true,
            name: String::new(),
            version: String::new(),
            clock_ahead_micros: None,
            last_start_at: None,
        };
        QueueState {
            counters: Counters::default(),
            pause: None,
            handout: None,
            oldest_waiting: None,
            blocked: Blocked::default(),
            nodes: vec![node],
        }
    }

    fn feed(waiting: Option<(u64, u64)>) -> FeedState {
        FeedState {
            bounds: FeedBounds {
                epochs: Epochs::of(vec![first_epoch()]).unwrap(),
                complete_after: FeedPosition(20),
                last: FeedPosition(50),
            },
            waiting: waiting.map(|(transactions, seconds)| FeedWaiting {
                transactions,
                oldest_age: Duration::from_secs(seconds),
            }),
        }
    }

    #[test]
    fn the_first_and_last_position_are_shown() {
        let whole = judge(&feed(None), &queue(true));
        assert_eq!(whole.state, State::Ok);
        assert_eq!(whole.text, "positions 21 to 50, no transaction waits");
        let mut empty = feed(None);
        empty.bounds.complete_after = empty.bounds.last;
        assert_eq!(
            judge(&empty, &queue(true)).text,
            "no events, no transaction waits"
        );
    }

    #[test]
    fn the_start_of_the_epoch_is_shown() {
        let mut later = feed(None);
        let newest = Epoch {
            number: 8,
            first_order_id: OrderId(7_000_012),
            after: FeedPosition(30),
            ..first_epoch()
        };
        later.bounds.epochs = Epochs::of(vec![first_epoch(), newest]).unwrap();
        assert_eq!(
            judge(&later, &queue(true)).text,
            "positions 21 to 50, epoch 8 begins with order 7000012 after position 30, no transaction waits"
        );
    }

    #[test]
    fn a_feed_that_lags_behind_live_nodes_is_a_warning() {
        let late = judge(&feed(Some((3, 90))), &queue(true));
        assert_eq!(late.state, State::Warn);
        assert_eq!(
            late.text,
            "positions 21 to 50, 3 transactions wait for theirs, the oldest for 1m 30s"
        );
        assert_eq!(judge(&feed(Some((3, 90))), &queue(false)).state, State::Ok);
        assert_eq!(judge(&feed(Some((3, 5))), &queue(true)).state, State::Ok);
        let many = judge(&feed(Some((FEED_WAITING_MAX, 5))), &queue(true));
        assert!(many.text.contains("100000 transactions or more"), "{}", many.text);
    }
}
