//! A lower bound for the first line, so that a claim does not walk past the dead entries of all the orders that were
//! claimed before it: as long as anybody holds an old snapshot, nobody may clean them up.
//!
//! An order may only be passed over when it cannot be in the first line any more. Ids are drawn before their
//! transaction commits, so an id below one that was seen may still come. But its transaction has an id of its own, drawn
//! before the order's: an id of the sequence is *decided* when every transaction that was running when it was read has
//! ended. A claim that begins after that sees every order up to it, and takes them in their order: what is decided, up to
//! the last one that this claim took, is gone from the line. But for what it passed over, because another session had locked
//! it: the bound stays below that, so that every claim looks at it again.

use std::time::{Duration, Instant};

use super::look::ServerRun;

/// The longest time between two claims that look without a floor: after a failover to a standby that lags behind, ids
/// are given out again.
const FULL_LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Times what the last one took: where there is very much to walk past, it is done less often.
const FULL_LOOK_SHARE: u32 = 50;
/// The same for one that took too long where there is no floor to go on with: the other nodes' claims wait meanwhile.
const VAIN_LOOK_SHARE: u32 = 4;

#[derive(Debug)]
pub(super) struct Floor {
    /// No order of the first line is at or below.
    bound: i64,
    decided: i64,
    /// An id of the sequence, and the transaction before whose id all that drew up to it have theirs.
    mark: Option<(i64, i64)>,
    /// Where all this was seen. A new connection may lead elsewhere: after a failover, ids are given out again.
    server: Option<ServerRun>,
    next_full_look: Option<Instant>,
    /// The claim under way looks without a floor.
    looks_fully: bool,
    /// There is no bound, and the last look without one took too long.
    looked_in_vain: bool,
}

/// The bound as readers may use it, who look at the first line as well.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownFloor {
    /// Empty where nothing is known.
    pub server: ServerRun,
    pub bound: i64,
}

/// What a claim saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Of the sequence, before the claim's transaction got its id.
    pub last_order_id: i64,
    /// The oldest transaction that had not ended before the claim looked: what is older is seen by the claim.
    pub oldest_running: i64,
    /// Of the claim; `None` when it wrote nothing.
    pub transaction: Option<i64>,
    /// The highest id of the first line that it claimed.
    pub claimed: Option<i64>,
    /// It saw the first line to its end.
    pub exhausted: bool,
    /// The lowest id of the first line that it passed over.
    pub passed_over: Option<i64>,
}

impl Floor {
    pub fn new() -> Floor {
        Floor {
            bound: 0,
            decided: 0,
            mark: None,
            server: None,
            next_full_look: None,
            looks_fully: false,
            looked_in_vain: false,
        }
    }

    /// The bound for the next claim on this server; 0 is none. `None` while there is none, and the last look without one
    /// took too long.
    pub fn of(&mut self, server: &ServerRun, now: Instant) -> Option<i64> {
        if self.server.as_ref() != Some(server) {
            *self = Floor {
                server: Some(server.clone()),
                ..Floor::new()
            };
        }
        let due = self.next_full_look.is_none_or(|due| due <= now);
        self.looks_fully = due || self.bound == 0;
        match self.looks_fully {
            true if self.looked_in_vain && !due => None,
            true => Some(0),
            false => Some(self.bound),
        }
    }

    /// The bound as of the last claim.
    pub fn known(&self) -> KnownFloor {
        KnownFloor {
            server: self.server.clone().unwrap_or_default(),
            bound: self.bound,
        }
    }

    /// The claim with the bound given last was given up by the server. What was seen before it stays true; without a floor
    /// the next one would take as long.
    pub fn took_too_long(&mut self, began: Instant, ended: Instant) {
        if !self.looks_fully {
            return;
        }
        self.looked_in_vain = self.bound == 0;
        let share = if self.looked_in_vain {
            VAIN_LOOK_SHARE
        } else {
            FULL_LOOK_SHARE
        };
        self.next_full_look = Some(ended + (ended - began) * share);
    }

    /// What a claim with the bound given last saw, which began and ended then.
    pub fn saw(&mut self, seen: Seen, began: Instant, ended: Instant) {
        if self.looks_fully {
            self.bound = 0;
            self.looked_in_vain = false;
            let spaced = (ended - began) * FULL_LOOK_SHARE;
            self.next_full_look = Some(ended + spaced.max(FULL_LOOK_INTERVAL));
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
        // What is decided was seen by this very claim: up to the last one that it took, it took all that was there.
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
        floor: Floor,
        now: Instant,
    }

    impl Claims {
        fn new() -> Claims {
            Claims {
                floor: Floor::new(),
                now: Instant::now(),
            }
        }

        fn next(&mut self, seen: Seen) -> i64 {
            let bound = self.floor.of(&server(1), self.now);
            self.floor.saw(seen, self.now, self.now);
            bound.expect("no look took long")
        }
    }

    fn server(number: u32) -> ServerRun {
        number.to_string().into()
    }

    fn claim(last_order_id: i64, transaction: i64, oldest_running: i64, claimed: i64) -> Seen {
        Seen {
            last_order_id,
            transaction: Some(transaction),
            oldest_running,
            claimed: Some(claimed),
            exhausted: false,
            passed_over: None,
        }
    }

    #[test]
    fn nothing_is_passed_over_that_a_running_transaction_can_still_store() {
        let mut claims = Claims::new();
        // Transaction 40 drew an id below 100 and runs on.
        assert_eq!(claims.next(claim(100, 50, 40, 90)), 0);
        assert_eq!(claims.next(claim(200, 60, 40, 190)), 0);
        assert_eq!(claims.next(claim(300, 70, 50, 290)), 0);
        assert_eq!(claims.next(claim(400, 80, 75, 390)), 100);
        assert_eq!(claims.next(claim(400, 90, 85, 395)), 300);
    }

    #[test]
    fn nothing_is_passed_over_that_was_not_claimed() {
        let mut claims = Claims::new();
        claims.next(claim(1_000, 50, 50, 10));
        claims.next(claim(1_000, 60, 60, 20));
        assert_eq!(claims.next(claim(1_000, 70, 70, 30)), 20);
    }

    /// Order 7 was claimed while 2 to 6 were not committed yet. They come later, and the claims take one each.
    #[test]
    fn what_commits_late_is_claimed_to_its_end() {
        let mut claims = Claims::new();
        assert_eq!(claims.next(claim(7, 50, 40, 7)), 0);
        for (number, late) in (2..=6).enumerate() {
            let transaction = 60 + i64::try_from(number).unwrap();
            let bound = claims.next(claim(7, transaction, transaction, late));
            assert!(bound < late, "order {late} is above {bound}");
        }
    }

    #[test]
    fn a_first_line_seen_to_its_end_is_passed_over_as_far_as_it_is_decided() {
        let mut claims = Claims::new();
        claims.next(claim(100, 50, 50, 10));
        let to_its_end = Seen {
            exhausted: true,
            ..claim(200, 60, 60, 20)
        };
        claims.next(to_its_end);
        assert_eq!(claims.next(claim(200, 70, 70, 30)), 100);
    }

    #[test]
    fn what_a_claim_passed_over_stays_above_the_bound() {
        let mut claims = Claims::new();
        let locked = |transaction, claimed, exhausted| Seen {
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
    fn a_look_without_a_floor_comes_in_time_and_with_every_server() {
        let start = Instant::now();
        let mut floor = Floor::new();
        assert_eq!(floor.of(&server(1), start), Some(0));
        floor.saw(claim(100, 50, 50, 90), start, start);
        assert_eq!(floor.of(&server(1), start), Some(0));
        floor.saw(claim(100, 60, 60, 95), start, start);
        assert_eq!(floor.of(&server(1), start + FULL_LOOK_INTERVAL / 2), Some(95));
        assert_eq!(floor.of(&server(1), start + FULL_LOOK_INTERVAL * 2), Some(0));
        floor.saw(claim(100, 70, 70, 99), start, start + FULL_LOOK_INTERVAL);
        assert_eq!(floor.of(&server(1), start + FULL_LOOK_INTERVAL * 3), Some(99));
        assert_eq!(floor.of(&server(2), start), Some(0));
    }

    #[test]
    fn a_look_that_took_too_long_leaves_the_floor_and_is_not_repeated_soon() {
        let mut claims = Claims::new();
        claims.next(claim(100, 50, 50, 90));
        claims.next(claim(100, 60, 60, 95));
        let Claims { mut floor, now } = claims;
        let (began, took) = (now + FULL_LOOK_INTERVAL, FULL_LOOK_INTERVAL);
        assert_eq!(floor.of(&server(1), began), Some(0));
        floor.took_too_long(began, began + took);
        assert_eq!(floor.of(&server(1), began + took), Some(95));
        // One above the floor says nothing about those without.
        floor.took_too_long(began + took, began + took);
        floor.saw(claim(200, 70, 70, 99), began + took, began + took);
        let ended = began + took;
        assert_eq!(
            floor.of(&server(1), ended + took * (FULL_LOOK_SHARE - 1)),
            Some(99)
        );
        assert_eq!(floor.of(&server(1), ended + took * FULL_LOOK_SHARE), Some(0));
    }

    #[test]
    fn who_never_got_through_looks_again_after_a_while() {
        let (start, took) = (Instant::now(), Duration::from_secs(10));
        let mut floor = Floor::new();
        assert_eq!(floor.of(&server(1), start), Some(0));
        floor.took_too_long(start, start + took);
        assert_eq!(floor.of(&server(1), start + took), None);
        let due = start + took + took * VAIN_LOOK_SHARE;
        assert_eq!(floor.of(&server(1), due), Some(0));
        floor.saw(claim(100, 50, 50, 90), due, due);
        // None yet, and it did not take long.
        assert_eq!(floor.of(&server(1), due), Some(0));
        // What was in vain on one server may not be on another.
        floor.took_too_long(due, due + took);
        assert_eq!(floor.of(&server(2), due + took), Some(0));
    }
}
