//! Record of leader changes, polled from every machine's Patroni, which keeps no such times.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::cluster;
use super::network::{MACHINES, Machine};

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A poll of one machine whose answer differs from the previous one.
#[derive(Clone, Copy)]
struct Change {
    at: Instant,
    machine: Machine,
    leads: bool,
}

pub struct Watch {
    changes: Arc<Mutex<Vec<Change>>>,
    ends: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<()>>,
}

impl Watch {
    pub fn start() -> Watch {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::new(AtomicBool::new(false));
        let watchers = MACHINES
            .into_iter()
            .map(|machine| {
                let (changes, ends) = (Arc::clone(&changes), Arc::clone(&ends));
                thread::spawn(move || watch(machine, &changes, &ends))
            })
            .collect();
        Watch {
            changes,
            ends,
            watchers,
        }
    }

    /// Waits until a machine becomes leader after `since`; `away` does not count.
    pub fn leader_since(&self, since: Instant, away: Option<Machine>, time_max: Duration) -> Result<Instant> {
        let deadline = Instant::now() + time_max;
        loop {
            let found = self
                .changes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .find(|change| change.at > since && change.leads && Some(change.machine) != away)
                .map(|change| change.at);
            if let Some(at) = found {
                return Ok(at);
            }
            if Instant::now() > deadline {
                bail!("no new leader within {time_max:?}");
            }
            sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for watcher in self.watchers.drain(..) {
            // The thread cannot panic.
            let _ended = watcher.join();
        }
    }
}

fn watch(machine: Machine, changes: &Mutex<Vec<Change>>, ends: &AtomicBool) {
    let mut known = false;
    while !ends.load(Ordering::Relaxed) {
        let leads = cluster::leads(machine);
        if leads != known {
            known = leads;
            let change = Change {
                at: Instant::now(),
                machine,
                leads,
            };
            changes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(change);
        }
        sleep(LOOK_INTERVAL);
    }
}
