//! Places for connections. At the limit, the unverified connection that has been idle longest is evicted, never one
//! whose request is in progress. `watch` follows each connection; the connection's own task closes it.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::watch::Watch;

/// Maximum number of new connections that wait at once for an evicted one to close, which takes an instant because it
/// is idle.
pub const WAITING_MAX: usize = 64;
/// Maximum wait of a new connection: the evicted one may have just begun a request.
const WAITING_TIME_MAX: Duration = Duration::from_secs(1);
/// The time a connection in a reserved place may be idle before its eviction. A probe's request must arrive within it,
/// even in a burst of as many connections as reserved places and [`WAITING_MAX`] together.
pub const GRACE_IN_RESERVED_PLACES: Duration = Duration::from_millis(20);
/// Interval at which a waiting connection evicts another one.
const EVICT_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Maximum number of candidates found in one scan, which visits all connections.
const CANDIDATES_MAX: usize = 64;

/// Places for connections; cheap to clone.
#[derive(Clone)]
pub struct Admission {
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    registry: Arc<Mutex<Registry>>,
    /// Minimum idle time before an eviction; a request in progress also has `Limits::eviction_stall`.
    grace: Duration,
}

#[derive(Default)]
struct Registry {
    next: u64,
    watches: HashMap<u64, Arc<Watch>>,
    /// Connections from the last scan, longest idle first, each with the start of its idle time.
    candidates: VecDeque<(Instant, u64)>,
}

/// Outcome of a new connection's attempt to enter.
pub enum Entry {
    Place(Place),
    /// Another connection is being evicted.
    Evicting(Eviction),
    /// No connection can be evicted, or too many new connections wait.
    Full,
}

/// Held until dropped.
pub struct Place {
    admission: Admission,
    _permit: OwnedSemaphorePermit,
}

pub struct Eviction {
    admission: Admission,
    _turn: OwnedSemaphorePermit,
}

impl Admission {
    pub fn new(places: usize) -> Admission {
        Admission {
            places: Arc::new(Semaphore::new(places)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            registry: Arc::default(),
            grace: Duration::ZERO,
        }
    }

    /// Creates a few places, for connections that are answered at once or not at all.
    pub fn of_reserved_places(places: usize) -> Admission {
        Admission {
            grace: GRACE_IN_RESERVED_PLACES,
            ..Admission::new(places)
        }
    }

    pub fn enter(&self) -> Entry {
        if let Some(place) = self.free_place() {
            return Entry::Place(place);
        }
        let Ok(turn) = self.waiting.clone().try_acquire_owned() else {
            return Entry::Full;
        };
        if !self.registry().evict_one(self.grace) {
            return Entry::Full;
        }
        Entry::Evicting(Eviction {
            admission: self.clone(),
            _turn: turn,
        })
    }

    /// Waits for a place even if no connection can be evicted yet: evicted ones may still be closing, and new ones have
    /// their grace. `None` if no place is free in time or too many new connections wait.
    pub async fn wait_for_place(&self) -> Option<Place> {
        if let Some(place) = self.free_place() {
            return Some(place);
        }
        let _turn = self.waiting.try_acquire().ok()?;
        let deadline = Instant::now() + WAITING_TIME_MAX;
        let mut permit = pin!(self.places.clone().acquire_owned());
        while Instant::now() < deadline {
            // Another connection may take the place evicted for this one, so this one evicts again after a while.
            self.registry().evict_one(self.grace);
            let check_again = deadline.min(Instant::now() + EVICT_AGAIN_AFTER);
            if let Ok(permit) = timeout_at(check_again, &mut permit).await {
                return permit.ok().map(|permit| self.place(permit));
            }
        }
        None
    }

    fn free_place(&self) -> Option<Place> {
        // A free place belongs to the waiting connections, whose tasks may not have asked for it yet.
        let promised = WAITING_MAX - self.waiting.available_permits();
        if self.places.available_permits() <= promised {
            return None;
        }
        let permit = self.places.clone().try_acquire_owned().ok()?;
        Some(self.place(permit))
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        Place {
            admission: self.clone(),
            _permit: permit,
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Every write leaves it whole, even if a thread panicked.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Eviction {
    /// Returns the place, or `None` if the evicted connection does not close in time.
    pub async fn place(self) -> Option<Place> {
        let permit = timeout(WAITING_TIME_MAX, self.admission.places.clone().acquire_owned()).await;
        permit.ok()?.ok().map(|permit| self.admission.place(permit))
    }
}

impl Place {
    /// Makes the connection in this place a candidate for eviction until the returned guard is dropped.
    pub fn register(&self, watch: Arc<Watch>) -> Registration {
        let mut registry = self.admission.registry();
        let number = registry.next;
        registry.next += 1;
        registry.watches.insert(number, watch);
        drop(registry);
        Registration {
            admission: self.admission.clone(),
            number,
        }
    }
}

pub struct Registration {
    admission: Admission,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.admission.registry().watches.remove(&self.number);
    }
}

impl Registry {
    /// Evicts the unverified connection that has been idle longest. `false` if there is none.
    fn evict_one(&mut self, grace: Duration) -> bool {
        self.evict_a_candidate() || {
            self.find_candidates(grace);
            self.evict_a_candidate()
        }
    }

    fn evict_a_candidate(&mut self) -> bool {
        while let Some((since, number)) = self.candidates.pop_front() {
            let Some(watch) = self.watches.get(&number) else {
                continue;
            };
            // A connection that was busy since the scan is no longer the longest idle.
            if watch.evictable_since() == Some(since) {
                watch.evict();
                return true;
            }
        }
        false
    }

    fn find_candidates(&mut self, grace: Duration) {
        let now = Instant::now();
        let idle = |(number, watch): (&u64, &Arc<Watch>)| {
            let since = watch.evictable_since()?;
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
    use super::super::watch::KeyCheck;
    use super::*;
    use crate::http::observed_stream::{Direction, StreamObserver};

    fn registered(place: &Place) -> (Arc<Watch>, Registration) {
        let watch = Arc::new(Watch::new(Limits::new(1)));
        (watch.clone(), place.register(watch))
    }

    fn is_full(admission: &Admission) -> bool {
        matches!(admission.enter(), Entry::Full)
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_keeps_its_place_until_it_stalls_for_two_seconds() {
        let admission = Admission::new(1);
        let place = admission.free_place().unwrap();
        let (mut watch, _registration) = registered(&place);
        let _ = watch.arrived(b"POST / HTTP/1.1\r\n\r\n", &Context::from_waker(Waker::noop()));
        watch.request_begins(Some(1_000), false);
        for _ in 0..5 {
            watch.blocked(Direction::Read, true);
            tokio::time::advance(Duration::from_millis(1_999)).await;
            assert!(is_full(&admission));
            watch.blocked(Direction::Read, false);
        }
        watch.blocked(Direction::Read, true);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!is_full(&admission));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_waits_a_second_when_none_can_be_evicted() {
        let admission = Admission::new(1);
        let place = admission.free_place().unwrap();
        let (watch, _registration) = registered(&place);
        watch.set_key_check(KeyCheck::Passed);
        let started = Instant::now();
        assert!(admission.wait_for_place().await.is_none());
        assert_eq!(started.elapsed(), WAITING_TIME_MAX);
    }

    /// A probe in a burst of connections was refused, or lost its place before its request was read.
    #[tokio::test(start_paused = true)]
    async fn new_connections_take_turns_in_a_reserved_place() {
        let admission = Admission::of_reserved_places(1);
        let first = admission.wait_for_place().await.unwrap();
        let (watch, _registration) = registered(&first);
        let waits = || {
            let admission = admission.clone();
            tokio::spawn(async move { admission.wait_for_place().await })
        };
        let (second, third) = (waits(), waits());
        let started = Instant::now();
        watch.evicted().await;
        assert_eq!(started.elapsed(), GRACE_IN_RESERVED_PLACES);
        drop(first);
        let second = second.await.unwrap().unwrap();
        let (watch, _registration) = registered(&second);
        let started = Instant::now();
        watch.evicted().await;
        assert!(started.elapsed() >= GRACE_IN_RESERVED_PLACES);
        drop(second);
        assert!(third.await.unwrap().is_some());
    }
}
