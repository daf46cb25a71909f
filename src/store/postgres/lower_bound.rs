//! The order id from which claims read the first line. Without it, a claim walks past the dead index entries of all
//! orders that were claimed before: while any session holds an old snapshot, vacuum cannot remove them.
//!
//! A claim may skip an order only when the order cannot be in the first line any more. Ids are drawn before their
//! transaction commits, so an id below one that was seen may still arrive. But that transaction got its own id before
//! it drew the order's. So an id of the sequence is *decided* once every transaction has ended that was running when
//! the sequence was read. A claim that begins later sees every order up to the decided id and takes them in their
//! order: up to the last one it took, no decided order is left in the line. Orders that it passed over, because
//! another session had locked them, stay above the bound, so that every claim looks at them again.

use std::time::{Duration, Instant};

use super::server_info::ServerRun;

/// The longest time between two full scans, which use no lower bound: after a failover to a standby that lags, ids
/// are given out again.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(10);
/// The pause after a full scan, in multiples of the time it took: a slow scan runs less often.
const FULL_SCAN_PAUSE_FACTOR: u32 = 50;
/// The pause after a full scan that timed out while there is no bound to go on with, in multiples of the time it
/// took. Claims of the other nodes wait during a scan.
const TIMED_OUT_SCAN_PAUSE_FACTOR: u32 = 4;

/// Finds the lower bound from what the claims of this node see.
#[derive(Debug)]
pub(super) struct LowerBoundTracker {
    /// No order of the first line has this id or a lower one.
    bound: i64,
    /// Every order up to this id was stored by a transaction that has ended.
    decided: i64,
    /// An id of the sequence, and the id of a transaction: all orders up to the former were drawn by earlier
    /// transactions.
    mark: Option<(i64, i64)>,
    /// The server on which this was seen. A new connection may lead to another: after a failover, ids are given out
    /// again.
    server: Option<ServerRun>,
    next_full_scan: Option<Instant>,
    /// The claim under way is a full scan.
    is_full_scan: bool,
    /// There is no bound, and the latest full scan timed out.
    full_scan_timed_out: bool,
}

/// The lower bound for readers of the first line.
#[derive(Clone, Debug, Default)]
pub(super) struct LowerBound {
    /// The run of the server for which the bound holds; empty when there is none.
    pub server: ServerRun,
    pub bound: i64,
}

/// The observations of one claim.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClaimObservation {
    /// The last value of the sequence, read before the claim's transaction got its id.
    pub last_order_id: i64,
    /// The oldest transaction that was running before the claim read. The claim sees everything that older ones
    /// stored.
    pub oldest_running: i64,
    /// The transaction of the claim; `None` when it wrote nothing.
    pub transaction: Option<i64>,
    /// The highest id of the first line that it claimed.
    pub claimed: Option<i64>,
    /// The claim read the first line to its end.
    pub exhausted: bool,
    /// The lowest id of the first line that it passed over.
    pub passed_over: Option<i64>,
}

impl LowerBoundTracker {
    pub fn new() -> LowerBoundTracker {
        LowerBoundTracker {
            bound: 0,
            decided: 0,
            mark: None,
            server: None,
            next_full_scan: None,
            is_full_scan: false,
            full_scan_timed_out: false,
        }
    }

    /// Returns the bound for the next claim on this server; 0 for a full scan. `None` when a full scan is needed and
    /// not due yet, because the latest one timed out.
    pub fn next_bound(&mut self, server: &ServerRun, now: Instant) -> Option<i64> {
        if self.server.as_ref() != Some(server) {
            *self = LowerBoundTracker {
                server: Some(server.clone()),
                ..LowerBoundTracker::new()
            };
        }
        let due = self.next_full_scan.is_none_or(|due| due <= now);
        self.is_full_scan = due || self.bound == 0;
        match self.is_full_scan {
            true if self.full_scan_timed_out && !due => None,
            true => Some(0),
            false => Some(self.bound),
        }
    }

    /// Returns the bound as of the latest claim.
    pub fn current(&self) -> LowerBound {
        LowerBound {
            server: self.server.clone().unwrap_or_default(),
            bound: self.bound,
        }
    }

    /// Records that the server ended the latest claim at its time limit. What earlier claims saw stays true; the next
    /// full scan would take as long.
    pub fn record_timeout(&mut self, began: Instant, ended: Instant) {
        if !self.is_full_scan {
            return;
        }
        self.full_scan_timed_out = self.bound == 0;
        let factor = if self.full_scan_timed_out {
            TIMED_OUT_SCAN_PAUSE_FACTOR
        } else {
            FULL_SCAN_PAUSE_FACTOR
        };
        self.next_full_scan = Some(ended + (ended - began) * factor);
    }

    /// Records what the latest claim saw, and when it began and ended.
    pub fn record(&mut self, seen: ClaimObservation, began: Instant, ended: Instant) {
        if self.is_full_scan {
            self.bound = 0;
            self.full_scan_timed_out = false;
            let spaced = (ended - began) * FULL_SCAN_PAUSE_FACTOR;
            self.next_full_scan = Some(ended + spaced.max(FULL_SCAN_INTERVAL));
        }
        if let Some((id, transaction)) = self.mark
            && seen.oldest_running >= transaction
        {
            self.decided = self.decided.max(id);
            self.mark = None;
        }
        if self.mark.is_none()
            && let Some(transaction) = seen.transaction
        {
            self.mark = Some((seen.last_order_id, transaction));
        }
        // The claim saw every decided order. Up to the last one it took, it took all that were there.
        let passed = if seen.exhausted {
            self.decided
        } else {
            seen.claimed.map_or(0, |claimed| claimed.min(self.decided))
        };
        let passed = seen.passed_over.map_or(passed, |locked| passed.min(locked - 1));
        self.bound = self.bound.max(passed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims one after another, each in no time.
    struct Claims {
        tracker: LowerBoundTracker,
        now: Instant,
    }

    impl Claims {
        fn new() -> Claims {
            Claims {
                tracker: LowerBoundTracker::new(),
                now: Instant::now(),
            }
        }

        fn next(&mut self, seen: ClaimObservation) -> i64 {
            let bound = self.tracker.next_bound(&server(1), self.now);
            self.tracker.record(seen, self.now, self.now);
            bound.expect("no scan timed out")
        }
    }

    fn server(number: u32) -> ServerRun {
        number.to_string().into()
    }

    fn claim(last_order_id: i64, transaction: i64, oldest_running: i64, claimed: i64) -> ClaimObservation {
        ClaimObservation {
            last_order_id,
            transaction: Some(transaction),
            oldest_running,
            claimed: Some(claimed),
            exhausted: false,
            passed_over: None,
        }
    }

    #[test]
    fn the_bound_stays_below_ids_of_running_transactions() {
        let mut claims = Claims::new();
        // Transaction 40 drew an id below 100 and runs on.
        assert_eq!(claims.next(claim(100, 50, 40, 90)), 0);
        assert_eq!(claims.next(claim(200, 60, 40, 190)), 0);
        assert_eq!(claims.next(claim(300, 70, 50, 290)), 0);
        assert_eq!(claims.next(claim(400, 80, 75, 390)), 100);
        assert_eq!(claims.next(claim(400, 90, 85, 395)), 300);
    }

    #[test]
    fn the_bound_stays_below_unclaimed_orders() {
        let mut claims = Claims::new();
        claims.next(claim(1_000, 50, 50, 10));
        claims.next(claim(1_000, 60, 60, 20));
        assert_eq!(claims.next(claim(1_000, 70, 70, 30)), 20);
    }

    /// Order 7 was claimed while orders 2 to 6 were not committed yet. They arrive later, and each claim takes one.
    #[test]
    fn orders_that_commit_late_stay_above_the_bound() {
        let mut claims = Claims::new();
        assert_eq!(claims.next(claim(7, 50, 40, 7)), 0);
        for (number, late) in (2..=6).enumerate() {
            let transaction = 60 + i64::try_from(number).unwrap();
            let bound = claims.next(claim(7, transaction, transaction, late));
            assert!(bound < late, "order {late} is above {bound}");
        }
    }

    #[test]
    fn an_exhausted_first_line_raises_the_bound_to_the_decided_id() {
        let mut claims = Claims::new();
        claims.next(claim(100, 50, 50, 10));
        let to_its_end = ClaimObservation {
            exhausted: true,
            ..claim(200, 60, 60, 20)
        };
        claims.next(to_its_end);
        assert_eq!(claims.next(claim(200, 70, 70, 30)), 100);
    }

    #[test]
    fn passed_over_orders_stay_above_the_bound() {
        let mut claims = Claims::new();
        let locked = |transaction, claimed, exhausted| ClaimObservation {
            passed_over: Some(15),
            exhausted,
            ..claim(100, transaction, transaction, claimed)
        };
        claims.next(locked(50, 20, false));
        claims.next(locked(60, 30, false));
        assert_eq!(claims.next(locked(70, 100, true)), 14);
        assert_eq!(claims.next(claim(100, 80, 80, 15)), 14);
        assert_eq!(claims.next(claim(100, 90, 90, 15)), 15);
    }

    #[test]
    fn a_full_scan_is_due_in_time_and_on_every_new_server() {
        let start = Instant::now();
        let mut tracker = LowerBoundTracker::new();
        assert_eq!(tracker.next_bound(&server(1), start), Some(0));
        tracker.record(claim(100, 50, 50, 90), start, start);
        assert_eq!(tracker.next_bound(&server(1), start), Some(0));
        tracker.record(claim(100, 60, 60, 95), start, start);
        assert_eq!(
            tracker.next_bound(&server(1), start + FULL_SCAN_INTERVAL / 2),
            Some(95)
        );
        assert_eq!(
            tracker.next_bound(&server(1), start + FULL_SCAN_INTERVAL * 2),
            Some(0)
        );
        tracker.record(claim(100, 70, 70, 99), start, start + FULL_SCAN_INTERVAL);
        assert_eq!(
            tracker.next_bound(&server(1), start + FULL_SCAN_INTERVAL * 3),
            Some(99)
        );
        assert_eq!(tracker.next_bound(&server(2), start), Some(0));
    }

    #[test]
    fn a_timed_out_scan_keeps_the_bound_and_delays_the_next_scan() {
        let mut claims = Claims::new();
        claims.next(claim(100, 50, 50, 90));
        claims.next(claim(100, 60, 60, 95));
        let Claims { mut tracker, now } = claims;
        let (began, took) = (now + FULL_SCAN_INTERVAL, FULL_SCAN_INTERVAL);
        assert_eq!(tracker.next_bound(&server(1), began), Some(0));
        tracker.record_timeout(began, began + took);
        assert_eq!(tracker.next_bound(&server(1), began + took), Some(95));
        // A timeout of a claim with a bound does not delay the next full scan.
        tracker.record_timeout(began + took, began + took);
        tracker.record(claim(200, 70, 70, 99), began + took, began + took);
        let ended = began + took;
        assert_eq!(
            tracker.next_bound(&server(1), ended + took * (FULL_SCAN_PAUSE_FACTOR - 1)),
            Some(99)
        );
        assert_eq!(
            tracker.next_bound(&server(1), ended + took * FULL_SCAN_PAUSE_FACTOR),
            Some(0)
        );
    }

    #[test]
    fn without_a_bound_a_timed_out_scan_is_repeated_after_a_pause() {
        let (start, took) = (Instant::now(), Duration::from_secs(10));
        let mut tracker = LowerBoundTracker::new();
        assert_eq!(tracker.next_bound(&server(1), start), Some(0));
        tracker.record_timeout(start, start + took);
        assert_eq!(tracker.next_bound(&server(1), start + took), None);
        let due = start + took + took * TIMED_OUT_SCAN_PAUSE_FACTOR;
        assert_eq!(tracker.next_bound(&server(1), due), Some(0));
        tracker.record(claim(100, 50, 50, 90), due, due);
        // There is no bound yet, and the scan was quick.
        assert_eq!(tracker.next_bound(&server(1), due), Some(0));
        // The scan may succeed on another server.
        tracker.record_timeout(due, due + took);
        assert_eq!(tracker.next_bound(&server(2), due + took), Some(0));
    }
}
