//! Schedule of an open loop: requests become due whether or not earlier ones were answered, and latency counts from the
//! due time, so that waiting for a slow server counts (no coordinated omission).

use std::cell::Cell;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Interval of checks for due requests. It bounds the delay of a request, which counts as latency; a shorter interval
/// would take processor time from the server.
const CHECK_INTERVAL: Duration = Duration::from_micros(150);

/// The requests of one thread of the load generator.
pub struct Tickets {
    due: Arc<Semaphore>,
    /// Number handed out to connections so far.
    taken: Cell<u64>,
    times: Times,
}

/// Due times of the requests of one share of a rate.
#[derive(Clone, Copy)]
pub struct Times {
    pub first: Instant,
    pub interval: Duration,
    pub count: u64,
}

impl Times {
    /// Returns one of `shares` that together make `rate` requests per second for `time`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, and far below the integers' end
    pub fn of_share(start: Instant, rate: f64, time: Duration, share: u32, shares: u32) -> Times {
        let interval = Duration::from_secs_f64(f64::from(shares) / rate);
        let first = interval * share / shares;
        let left = time.saturating_sub(first).as_secs_f64();
        Times {
            first: start + first,
            interval,
            count: (left / interval.as_secs_f64()).ceil() as u64,
        }
    }

    fn of(&self, number: u64) -> Instant {
        self.first + self.interval.mul_f64(precise(number))
    }

    /// Returns the number of requests due by `now`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // as above
    fn due_at(&self, now: Instant) -> u64 {
        match now.checked_duration_since(self.first) {
            Some(passed) => ((passed.as_secs_f64() / self.interval.as_secs_f64()) as u64 + 1).min(self.count),
            None => 0,
        }
    }
}

/// Converts to a float; the numbers are small enough to be exact.
#[allow(clippy::cast_precision_loss)]
fn precise(number: u64) -> f64 {
    number as f64
}

impl Tickets {
    pub fn new(times: Times) -> Tickets {
        Tickets {
            due: Arc::new(Semaphore::new(0)),
            taken: Cell::new(0),
            times,
        }
    }

    /// Waits for the next due request and returns its due time; `None` when all were handed out.
    pub async fn next(&self) -> Option<Instant> {
        if self.taken.get() >= self.times.count {
            return None;
        }
        let permit = self.due.acquire().await;
        permit.expect("the semaphore is never closed").forget();
        let number = self.taken.get();
        // The last permits only wake waiting connections.
        (number < self.times.count).then(|| {
            self.taken.set(number + 1);
            self.times.of(number)
        })
    }

    /// Returns the due times of unsent requests.
    pub fn left(&self) -> impl Iterator<Item = Instant> {
        (self.taken.get()..self.times.count).map(|number| self.times.of(number))
    }

    /// Returns the schedule for [`release`].
    pub fn schedule(&self) -> Schedule {
        Schedule {
            due: self.due.clone(),
            times: self.times,
            released: 0,
        }
    }
}

/// Requests of one thread still to be released.
pub struct Schedule {
    due: Arc<Semaphore>,
    times: Times,
    released: u64,
}

/// Releases all requests when they are due, from a separate thread: timers of the runtime have a resolution of a
/// millisecond. At the end it wakes all waiting connections, at most `connections`.
pub fn release(mut schedules: Vec<Schedule>, connections: usize, stop: CancellationToken) -> JoinHandle<()> {
    thread::spawn(move || {
        while !stop.is_cancelled()
            && schedules
                .iter()
                .any(|schedule| schedule.released < schedule.times.count)
        {
            let now = Instant::now();
            for schedule in &mut schedules {
                let due = schedule.times.due_at(now);
                let new = usize::try_from(due - schedule.released).unwrap_or(usize::MAX);
                if new > 0 {
                    schedule.due.add_permits(new);
                    schedule.released = due;
                }
            }
            thread::sleep(CHECK_INTERVAL);
        }
        for schedule in &schedules {
            schedule.due.add_permits(connections);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up_to_the_rate() {
        let start = Instant::now();
        let share = |number| Times::of_share(start, 1_000.0, Duration::from_secs(2), number, 2);
        let (first, second) = (share(0), share(1));
        assert_eq!((first.count, second.count), (1_000, 1_000));
        assert_eq!(first.of(1) - start, Duration::from_millis(2));
        assert_eq!(second.of(1) - start, Duration::from_millis(3));
        assert_eq!(first.due_at(start), 1);
        assert_eq!(second.due_at(start), 0);
        assert_eq!(first.due_at(start + Duration::from_micros(4_500)), 3);
        assert_eq!(first.due_at(start + Duration::from_mins(1)), 1_000);
    }

    #[tokio::test]
    async fn every_request_is_handed_out_once_and_no_connection_hangs() {
        let times = Times::of_share(Instant::now(), 10_000.0, Duration::from_millis(20), 0, 1);
        let tickets = Tickets::new(times);
        let releasing = release(vec![tickets.schedule()], 8, CancellationToken::new());
        let take_all = || async {
            let mut count = 0;
            while tickets.next().await.is_some() {
                count += 1;
            }
            count
        };
        let takers = (0..8).map(|_| take_all());
        let taken: Vec<u64> = futures_util::future::join_all(takers).await;
        assert_eq!(taken.iter().sum::<u64>(), 200);
        assert_eq!(tickets.left().count(), 0);
        releasing.join().unwrap();
    }
}
