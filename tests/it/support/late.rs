//! Writers whose commits come in another order than their numbers, and a naive reader that misses events because of it:
//! the control of tests for a feed without gaps.

use std::sync::{Arc, Mutex};

use rand::RngExt;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use super::gate::Gate;
use super::proxy::Action;

/// The common but wrong way to read such a table: `number > cursor`. The control: it must skip events.
pub struct PlainReader {
    client: Client,
    cursor: i64,
    seen: usize,
}

impl PlainReader {
    pub fn new(client: Client) -> PlainReader {
        PlainReader {
            client,
            cursor: 0,
            seen: 0,
        }
    }

    pub async fn read(&mut self) {
        let statement = "select batch from orderly.events where batch > $1 order by batch, place";
        let rows = self.client.query(statement, &[&self.cursor]).await.unwrap();
        self.seen += rows.len();
        if let Some(last) = rows.last() {
            self.cursor = last.get(0);
        }
    }

    /// Number of events read.
    pub fn seen(&self) -> usize {
        self.seen
    }
}

/// Gates that hold back commits and open in random order.
pub struct HeldCommits {
    closed: Mutex<Vec<Arc<Gate>>>,
    max: usize,
}

impl HeldCommits {
    /// Holds at most this many at a time.
    pub fn new(max: usize) -> HeldCommits {
        HeldCommits {
            closed: Mutex::default(),
            max,
        }
    }

    /// The action for a flight that writes.
    pub fn action(&self, rng: &mut StdRng) -> Action {
        let mut closed = self.closed.lock().unwrap();
        if closed.len() == self.max || rng.random_bool(0.4) {
            return Action::Forward;
        }
        let gate = Gate::closed();
        closed.push(gate.clone());
        Action::Hold(gate)
    }

    pub fn open_one(&self, rng: &mut StdRng) {
        let mut closed = self.closed.lock().unwrap();
        if !closed.is_empty() {
            let chosen = rng.random_range(0..closed.len());
            closed.swap_remove(chosen).open();
        }
    }
}
