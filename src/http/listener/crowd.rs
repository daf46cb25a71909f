//! Places for connections, and who gives way when there is none: the stranger that has been idle longest, never a
//! connection with a request in progress. What a connection does is told by its `watch`; ending it is left to its task.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::watch::Watch;

/// Newcomers that wait at once for the place of a connection that was told to go: it takes an instant, since such a
/// connection is idle.
const WAITING_MAX: usize = 64;
/// Longest wait of a newcomer: the connection that was told to go may have begun a request just then.
const WAITING_TIME_MAX: Duration = Duration::from_secs(1);
/// Found in one look at all connections, which costs more the more there are.
const CANDIDATES_MAX: usize = 64;

/// Cheap to clone.
#[derive(Clone)]
pub struct Crowd {
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    members: Arc<Mutex<Members>>,
}

#[derive(Default)]
struct Members {
    next: u64,
    watches: HashMap<u64, Arc<Watch>>,
    /// Connections from the last look, the longest idle first, each with the instant since when it was idle.
    candidates: VecDeque<(Instant, u64)>,
}

/// Result of a newcomer's attempt to enter.
pub enum Entry {
    Place(Place),
    /// Another connection was told to go.
    Soon(Soon),
    /// Every connection is busy, or has shown the key.
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
        }
    }

    pub fn enter(&self) -> Entry {
        // A place that becomes free is for those who wait for one: their tasks may not have asked for it yet.
        let promised = WAITING_MAX - self.waiting.available_permits();
        if self.places.available_permits() > promised
            && let Ok(permit) = self.places.clone().try_acquire_owned()
        {
            return Entry::Place(self.place(permit));
        }
        let Ok(turn) = self.waiting.clone().try_acquire_owned() else {
            return Entry::Full;
        };
        if !self.members().send_one_away() {
            return Entry::Full;
        }
        Entry::Soon(Soon {
            crowd: self.clone(),
            _turn: turn,
        })
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
    fn send_one_away(&mut self) -> bool {
        self.send_a_candidate_away() || {
            self.look();
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

    fn look(&mut self) {
        let idle = |(number, watch): (&u64, &Arc<Watch>)| Some((watch.idle_stranger_since()?, *number));
        let mut idle: Vec<(Instant, u64)> = self.watches.iter().filter_map(idle).collect();
        if idle.len() > CANDIDATES_MAX {
            idle.select_nth_unstable(CANDIDATES_MAX);
            idle.truncate(CANDIDATES_MAX);
        }
        idle.sort_unstable();
        self.candidates = idle.into();
    }
}
