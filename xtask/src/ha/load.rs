//! Load of a trial: writers that repeat each order until it is accepted, and readiness checks. `judge.rs` evaluates the
//! records.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::http;

/// Orders per second, all writers together.
pub const RATE: u32 = 30;
pub const WRITERS_PER_NODE: u32 = 2;
/// Pause of a client before it repeats a request.
const REPEAT_PAUSE: Duration = Duration::from_millis(250);
/// Above the longest answer time of a node.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(40);
const READY_INTERVAL: Duration = Duration::from_millis(250);
/// Time after which an order that was not accepted is given up and counts as unanswered.
const REPEATED_MAX: Duration = Duration::from_mins(2);

/// One request and its answer.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub sent: Instant,
    pub answered: Instant,
    /// `None` without a complete answer.
    pub status: Option<u16>,
    /// Order id in a 201.
    pub order_id: Option<u64>,
}

/// An order as seen by its client.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Reference, also used as idempotency key.
    pub reference: String,
    pub attempts: Vec<Attempt>,
}

impl Placed {
    /// Returns the attempt with the first 201.
    pub fn accepted(&self) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.status == Some(201))
    }
}

/// One readiness check; `ready` if it answered 200.
#[derive(Clone, Copy)]
pub struct Look {
    pub at: Instant,
    pub ready: bool,
}

#[derive(Default)]
pub struct Record {
    placed: Mutex<Vec<Placed>>,
    looks: Mutex<Vec<Look>>,
    /// Send time of the latest accepted request.
    latest: Mutex<Option<Instant>>,
}

impl Record {
    pub fn placed(&self) -> Vec<Placed> {
        locked(&self.placed).clone()
    }

    pub fn looks(&self) -> Vec<Look> {
        locked(&self.looks).clone()
    }

    /// Reports whether an order sent after this instant was accepted.
    pub fn accepts_since(&self, instant: Instant) -> bool {
        locked(&self.latest).is_some_and(|latest| latest > instant)
    }
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Places an order every `interval` until `ends`, one after another.
pub fn write(orders_url: &str, writer: &str, interval: Duration, record: &Record, ends: &AtomicBool) {
    for number in 0_u64.. {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        let began = Instant::now();
        let placed = place(orders_url, format!("{writer}-{number}"), record);
        locked(&record.placed).push(placed);
        sleep((began + interval).saturating_duration_since(Instant::now()));
    }
}

fn place(orders_url: &str, reference: String, record: &Record) -> Placed {
    let order = json!({"user_id": 1, "item_ids": [1], "total_amount": 1, "reference": reference});
    let body = order.to_string();
    let mut attempts = Vec::new();
    let deadline = Instant::now() + REPEATED_MAX;
    loop {
        let sent = Instant::now();
        let headers = [("Idempotency-Key", reference.as_str())];
        let answer = http::post(orders_url, &headers, &body, ANSWER_TIME_MAX);
        let answered = Instant::now();
        let (status, order_id) = match answer {
            Ok(answer) if answer.status == 201 => {
                let order_id = answer.json().ok().and_then(|order| order["order_id"].as_u64());
                *locked(&record.latest) = Some(sent);
                (Some(201), order_id)
            }
            Ok(answer) => (Some(answer.status), None),
            Err(_) => (None, None),
        };
        attempts.push(Attempt {
            sent,
            answered,
            status,
            order_id,
        });
        if status == Some(201) || answered > deadline {
            return Placed { reference, attempts };
        }
        sleep(REPEAT_PAUSE);
    }
}

pub fn watch_readiness(ready_url: &str, record: &Record, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        let answer = http::get(ready_url, ANSWER_TIME_MAX);
        let look = Look {
            at: Instant::now(),
            ready: answer.is_ok_and(|answer| answer.status == 200),
        };
        locked(&record.looks).push(look);
        sleep(READY_INTERVAL);
    }
}
