//! The last known vitals of a running server, for answers that must come in time whatever the database does: metrics, probes
//! and the page of an operator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{Finding, Local, Looker, Settings, diagnose, diagnose_local};
use crate::metrics::Metrics;
use crate::store::{Activity, Store, StoreError, Vitals};

/// Maximum wait for new numbers; after it the last known ones are answered with their age.
const READ_TIME_MAX: Duration = Duration::from_millis(1_500);

/// Reads the vitals when somebody asks, at most one read at a time.
pub struct Monitor {
    store: Arc<dyn Store>,
    settings: Arc<Settings>,
    metrics: Metrics,
    looker: Looker,
    reading: AtomicBool,
    latest: watch::Sender<Latest>,
}

#[derive(Clone, Default)]
struct Latest {
    /// The beginning of the read that ended last.
    began: Option<Instant>,
    error: Option<Arc<StoreError>>,
    known: Option<Known>,
}

/// Vitals, and when they were read.
#[derive(Clone)]
pub struct Known {
    pub vitals: Arc<Vitals>,
    local: Local,
    read_at: Instant,
    /// True if they were read for this call.
    pub is_fresh: bool,
    /// Age of the vitals; zero if they are fresh.
    pub age: Duration,
}

impl Monitor {
    pub fn new(store: Arc<dyn Store>, settings: Settings, metrics: Metrics) -> Arc<Monitor> {
        Arc::new(Monitor {
            store,
            settings: Arc::new(settings),
            metrics,
            looker: Looker::default(),
            reading: AtomicBool::new(false),
            latest: watch::Sender::new(Latest::default()),
        })
    }

    /// Returns vitals that show every change before the call, or, where the store does not answer within
    /// [`READ_TIME_MAX`], the last known ones.
    ///
    /// # Errors
    /// The reason why there are none: the store has not answered since the start of the server.
    pub async fn read(self: &Arc<Self>) -> Result<Known, StoreError> {
        let asked = Instant::now();
        let mut latest = self.latest.subscribe();
        let ended = async {
            while latest.borrow_and_update().began.is_none_or(|began| began < asked) {
                self.begin_reading();
                latest.changed().await.expect("the monitor holds the sender");
            }
        };
        let in_time = timeout(READ_TIME_MAX, ended).await.is_ok();
        let Latest { error, known, .. } = latest.borrow().clone();
        let is_fresh = in_time && error.is_none();
        match known {
            Some(known) => Ok(Known {
                is_fresh,
                age: if is_fresh {
                    Duration::ZERO
                } else {
                    known.read_at.elapsed()
                },
                ..known
            }),
            None => Err(error.map_or_else(late, |error| error.repeated())),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Judges the store and this node.
    pub fn diagnose(&self, known: &Known) -> Vec<Finding> {
        let open = u64::try_from(self.metrics.connections.get()).unwrap_or(0);
        let local = Local {
            connections: self.settings.connections_max.map(|max| (open, max)),
            ..known.local.clone()
        };
        let mut findings = diagnose(&known.vitals, &self.settings);
        findings.extend(diagnose_local(&local));
        super::sorted(findings)
    }

    /// Judges the last known state; no findings if there is none yet.
    pub async fn findings(self: &Arc<Self>) -> Vec<Finding> {
        match self.read().await {
            Ok(known) => self.diagnose(&known),
            Err(_) => Vec::new(),
        }
    }

    /// Starts to read, unless a read is under way. A read that hangs ends by the store's own limits.
    fn begin_reading(self: &Arc<Self>) {
        if self.reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let monitor = self.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let store = monitor.store.clone();
            // In a task of its own, so that a panic is an error like any other.
            let read = tokio::spawn(async move { store.vitals().await });
            let (read, local) = tokio::join!(read, monitor.looker.look(&monitor.settings));
            let read = read.unwrap_or_else(|panicked| {
                Err(StoreError::Unexpected {
                    attempted: "read the vitals",
                    source: panicked.into(),
                })
            });
            // A caller that waits for a later read starts it on the change below.
            monitor.reading.store(false, Ordering::Release);
            monitor.latest.send_modify(|latest| {
                latest.began = Some(began);
                match read {
                    Ok(vitals) => {
                        // The store has the counts of a minute ago.
                        let activity = vitals.activity.plus(Activity::not_stored(&monitor.metrics));
                        latest.error = None;
                        latest.known = Some(Known {
                            vitals: Arc::new(Vitals { activity, ..vitals }),
                            local,
                            read_at: Instant::now(),
                            is_fresh: true,
                            age: Duration::ZERO,
                        });
                    }
                    Err(error) => latest.error = Some(Arc::new(error)),
                }
            });
        });
    }
}

fn late() -> StoreError {
    StoreError::Unavailable {
        attempted: "read the vitals",
        source: anyhow::anyhow!("no answer within {READ_TIME_MAX:?}"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::store::layer::{Layer, Layered, NoStore};

    /// Answers each read of the vitals once it gets a permit, with an error.
    struct Gate(Semaphore);

    impl Layer for Gate {
        async fn vitals(&self, _inner: &dyn Store) -> Result<Vitals, StoreError> {
            self.0.acquire().await.expect("the gate is never closed").forget();
            Err(StoreError::Busy)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_is_not_waited_for() {
        let gate = Layered::new(Arc::new(NoStore), Gate(Semaphore::new(0)));
        let monitor = Monitor::new(Arc::new(gate), Settings::default(), Metrics::new());
        let began = Instant::now();
        let (one, two) = tokio::join!(monitor.read(), monitor.read());
        assert!(one.is_err() && two.is_err());
        assert!(began.elapsed() < READ_TIME_MAX * 2, "{:?}", began.elapsed());
        assert!(monitor.reading.load(Ordering::Acquire), "the read goes on");
    }
}
