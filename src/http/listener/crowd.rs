//! Places for connections, and who gives way when there is none: the stranger that has moved no byte for longest, never a
//! connection whose request the server works on. Its `watch` knows what a connection does; its task ends it.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::watch::Watch;

/// Newcomers that wait at once for the place of a connection that was told to go: it takes an instant, since such a
/// connection is idle.
pub const WAITING_MAX: usize = 64;
/// Longest wait of a newcomer: the connection that was told to go may have begun a request just then.
const WAITING_TIME_MAX: Duration = Duration::from_secs(1);
/// A connection in a kept place may move no byte for this long before it gives way: a probe's request must get here, also
/// with a burst of as many connections as there are kept places and [`WAITING_MAX`] together.
pub const GRACE_IN_KEPT_PLACES: Duration = Duration::from_millis(20);
/// Interval at which a newcomer that waits for a place looks for another connection to send away.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Found in one look at all connections, which costs more the more there are.
const CANDIDATES_MAX: usize = 64;

/// Cheap to clone.
#[derive(Clone)]
pub struct Crowd {
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    members: Arc<Mutex<Members>>,
    /// The shortest time without a byte after which a connection gives way; a request under way has `Limits::give_way_stall` too.
    grace: Duration,
}

#[derive(Default)]
struct Members {
    next: u64,
    watches: HashMap<u64, Arc<Watch>>,
    /// Connections from the last look, the longest idle first, each with the instant since which it has been idle.
    candidates: VecDeque<(Instant, u64)>,
}

/// Result of a newcomer's attempt to enter.
pub enum Entry {
    Place(Place),
    /// Another connection was told to go.
    Soon(Soon),
    /// No connection gives way, or too many newcomers wait.
    Full,
}

/// Taken until it is dropped.
pub struct Place {
    crowd: Crowd,
    _permit: OwnedSemaphorePermit,
}

pub struct Soon {
    crowd: Crowd,
    _turn: OwnedSemaphorePermit,
}

impl Crowd {
    pub fn new(places: usize) -> Crowd {
        Crowd {
            places: Arc::new(Semaphore::new(places)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            members: Arc::default(),
            grace: Duration::ZERO,
        }
    }

    /// Few places, for connections that are answered at once or not at all.
    pub fn of_kept_places(places: usize) -> Crowd {
        Crowd {
            grace: GRACE_IN_KEPT_PLACES,
            ..Crowd::new(places)
        }
    }

    pub fn enter(&self) -> Entry {
        if let Some(place) = self.free_place() {
            return Entry::Place(place);
        }
        let Ok(turn) = self.waiting.clone().try_acquire_owned() else {
            return Entry::Full;
        };
        if !self.members().send_one_away(self.grace) {
            return Entry::Full;
        }
        Entry::Soon(Soon {
            crowd: self.clone(),
            _turn: turn,
        })
    }

    /// Waits for a place even where no connection can be told to go yet: those that were told are still going, and newcomers
    /// have their grace. `None` when none is free in time, or too many newcomers wait.
    pub async fn wait_for_place(&self) -> Option<Place> {
        if let Some(place) = self.free_place() {
            return Some(place);
        }
        let _turn = self.waiting.try_acquire().ok()?;
        let deadline = Instant::now() + WAITING_TIME_MAX;
        let mut permit = pin!(self.places.clone().acquire_owned());
        while Instant::now() < deadline {
            // Another newcomer may get the place of the one that this one told to go, so it tells one more after a while.
            self.members().send_one_away(self.grace);
            let look_again = deadline.min(Instant::now() + LOOK_AGAIN_AFTER);
            if let Ok(permit) = timeout_at(look_again, &mut permit).await {
                return permit.ok().map(|permit| self.place(permit));
            }
        }
        None
    }

    fn free_place(&self) -> Option<Place> {
        // A place that becomes free is for those who wait for one: their tasks may not have asked for it yet.
        let promised = WAITING_MAX - self.waiting.available_permits();
        if self.places.available_permits() <= promised {
            return None;
        }
        let permit = self.places.clone().try_acquire_owned().ok()?;
        Some(self.place(permit))
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        Place {
            crowd: self.clone(),
            _permit: permit,
        }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // Every write to it is whole, whatever panicked around it.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Soon {
    /// `None` when the connection that was told to go has not gone.
    pub async fn place(self) -> Option<Place> {
        let permit = timeout(WAITING_TIME_MAX, self.crowd.places.clone().acquire_owned()).await;
        permit.ok()?.ok().map(|permit| self.crowd.place(permit))
    }
}

impl Place {
    /// The connection in this place may be told to go until what is returned is dropped.
    pub fn occupy(&self, watch: Arc<Watch>) -> Occupied {
        let mut members = self.crowd.members();
        let number = members.next;
        members.next += 1;
        members.watches.insert(number, watch);
        drop(members);
        Occupied {
            crowd: self.crowd.clone(),
            number,
        }
    }
}

pub struct Occupied {
    crowd: Crowd,
    number: u64,
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.crowd.members().watches.remove(&self.number);
    }
}

impl Members {
    /// Tells the stranger that has been idle longest to go. `false` when there is none.
    fn send_one_away(&mut self, grace: Duration) -> bool {
        self.send_a_candidate_away() || {
            self.look(grace);
            self.send_a_candidate_away()
        }
    }

    fn send_a_candidate_away(&mut self) -> bool {
        while let Some((since, number)) = self.candidates.pop_front() {
            let Some(watch) = self.watches.get(&number) else {
                continue;
            };
            // It may have been busy since it was looked at, and would no longer be the longest idle.
            if watch.idle_stranger_since() == Some(since) {
                watch.send_away();
                return true;
            }
        }
        false
    }

    fn look(&mut self, grace: Duration) {
        let now = Instant::now();
        let idle = |(number, watch): (&u64, &Arc<Watch>)| {
            let since = watch.idle_stranger_since()?;
            (now - since >= grace).then_some((since, *number))
        };
        let mut idle: Vec<(Instant, u64)> = self.watches.iter().filter_map(idle).collect();
        if idle.len() > CANDIDATES_MAX {
            idle.select_nth_unstable(CANDIDATES_MAX);
            idle.truncate(CANDIDATES_MAX);
        }
        idle.sort_unstable();
        self.candidates = idle.into();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::super::Limits;
    use super::super::watch::Standing;
    use super::*;
    use crate::http::tapped::{Tap, Way};

    fn occupied(place: &Place) -> (Arc<Watch>, Occupied) {
        let watch = Arc::new(Watch::new(Limits::new(1)));
        (watch.clone(), place.occupy(watch))
    }

    fn is_full(crowd: &Crowd) -> bool {
        matches!(crowd.enter(), Entry::Full)
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_keeps_its_place_until_no_byte_came_for_two_seconds() {
        let crowd = Crowd::new(1);
        let place = crowd.free_place().unwrap();
        let (mut watch, _occupied) = occupied(&place);
        let _ = watch.arrived(b"POST / HTTP/1.1\r\n\r\n", &Context::from_waker(Waker::noop()));
        watch.request_begins(Some(1_000), false);
        for _ in 0..5 {
            watch.blocked(Way::Read, true);
            tokio::time::advance(Duration::from_millis(1_999)).await;
            assert!(is_full(&crowd));
            watch.blocked(Way::Read, false);
        }
        watch.blocked(Way::Read, true);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!is_full(&crowd));
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_waits_a_second_where_no_connection_gives_way() {
        let crowd = Crowd::new(1);
        let place = crowd.free_place().unwrap();
        let (watch, _occupied) = occupied(&place);
        watch.stands(Standing::Keyed);
        let started = Instant::now();
        assert!(crowd.wait_for_place().await.is_none());
        assert_eq!(started.elapsed(), WAITING_TIME_MAX);
    }

    /// A probe that came with a burst of connections was refused, or lost its place before its request was read.
    #[tokio::test(start_paused = true)]
    async fn newcomers_take_turns_in_a_kept_place() {
        let crowd = Crowd::of_kept_places(1);
        let first = crowd.wait_for_place().await.unwrap();
        let (watch, _occupied) = occupied(&first);
        let waits = || {
            let crowd = crowd.clone();
            tokio::spawn(async move { crowd.wait_for_place().await })
        };
        let (second, third) = (waits(), waits());
        let started = Instant::now();
        watch.sent_away().await;
        assert_eq!(started.elapsed(), GRACE_IN_KEPT_PLACES);
        drop(first);
        let second = second.await.unwrap().unwrap();
        let (watch, _occupied) = occupied(&second);
        let started = Instant::now();
        watch.sent_away().await;
        assert!(started.elapsed() >= GRACE_IN_KEPT_PLACES);
        drop(second);
        assert!(third.await.unwrap().is_some());
    }
}
