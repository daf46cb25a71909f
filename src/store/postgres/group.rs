//! Group commit: calls that wait while the connections are busy go into one statement, and are answered when it is
//! committed; reads of single orders share statements in the same way. Nothing waits for a timer while it could go: a group
//! is what came while the ones before committed. What the statement says is left to the kinds of calls.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use super::classes::Class;
use super::failure::Failure;
use super::link::Link;
use super::pool::Pool;
use super::probe;
use super::shared::Shared;
use crate::store::StoreError;

/// Calls that may wait for a connection.
const CALLS_WAITING_MAX: usize = 16_384;
/// Calls and their rows in one statement: together they bound how long the first of them waits for its answer.
const GROUP_CALLS_MAX: usize = 1_024;
const GROUP_ROWS_MAX: usize = 1_000;
/// Beside a group under way another one is sent when as many calls wait as that one has, so that two connections take turns
/// with groups of a size instead of the second one taking whatever comes first. A group that takes longer holds nobody up.
const TURN_TIME_MAX: Duration = Duration::from_millis(5);
/// The limit where [`Call::TAKES_TURNS`] is false: the callers gain more by few, large groups than by an early answer.
const LONG_TURN_TIME_MAX: Duration = Duration::from_millis(50);
/// The most yields to callers before a group is sent: calls that never cease to come do not hold it up.
const YIELDS_MAX: usize = 4;
/// The most times that a call is carried out whose statement was the victim of a deadlock.
const TRIES_MAX: u32 = 5;

/// What many callers ask for at once.
pub(super) trait Call: Send + Sync + Sized + 'static {
    type Answer: Send;
    /// Calls with the same subject do not fit into one statement.
    type Subject: Eq + Hash + Send;
    const ATTEMPTED: &'static str;
    /// The class of the connections that carry out the calls.
    const CLASS: Class;
    /// Otherwise they only read.
    const STORES: bool = true;
    /// A group as large as the one under way goes beside it. Otherwise only a full group does, or one beside a group that
    /// takes long.
    const TAKES_TURNS: bool = true;

    fn subject(&self) -> Option<Self::Subject>;

    /// At most [`GROUP_ROWS_MAX`].
    fn rows(&self) -> usize;

    /// One transaction for all of them; answers each in the order given. A failure is that of all.
    fn carry_out(
        calls: &[&Self],
        link: &mut Link,
        shared: &Shared,
    ) -> impl Future<Output = Result<Vec<Result<Self::Answer, StoreError>>, Failure>> + Send;
}

/// Takes calls to the connections of their kind.
pub(super) struct Groups<C: Call> {
    calls: mpsc::Sender<Waiting<C>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Waiting<C: Call> {
    call: C,
    tries: u32,
    /// The most calls in a group with this one: half of a group that failed for what may be one call's fault.
    company_max: usize,
    answer: oneshot::Sender<Result<C::Answer, StoreError>>,
}

impl<C: Call> Groups<C> {
    /// Starts the runner of the groups. At most `groups` groups are under way at once.
    pub fn start(pool: &Arc<Pool>, groups: usize, shared: &Arc<Shared>) -> Groups<C> {
        let (calls, waiting) = mpsc::channel(CALLS_WAITING_MAX);
        let runner = Runner {
            pool: pool.clone(),
            shared: shared.clone(),
            idle: Idle::of((0..groups).map(|_| Link::new(pool.clone(), C::CLASS))),
            held: VecDeque::new(),
            running: JoinSet::new(),
            latest: Latest {
                calls: 0,
                turn_ends: Instant::now(),
            },
        };
        Groups {
            calls,
            task: Mutex::new(Some(tokio::spawn(runner.run(waiting)))),
        }
    }

    /// Waits for a place when too many calls wait.
    pub async fn call(&self, call: C) -> Result<C::Answer, StoreError> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            call,
            tries: 0,
            company_max: GROUP_CALLS_MAX,
            answer,
        };
        self.calls.send(waiting).await.map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or_else(|_| {
            Err(StoreError::Unexpected {
                attempted: C::ATTEMPTED,
                source: anyhow::Error::msg("the writer ended before it answered"),
            })
        })
    }

    /// Waits until everything is carried out that waited when the store began to close.
    pub async fn close(&self) {
        let task = self
            .task
            .lock()
            .expect("no code panics while it holds this lock")
            .take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "a writer ended abnormally");
        }
    }
}

struct Runner<C: Call> {
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    idle: Idle,
    /// Taken from the callers but not sent yet.
    held: VecDeque<Waiting<C>>,
    /// One task per connection in use; answers with the calls to be tried again.
    running: JoinSet<Vec<Waiting<C>>>,
    latest: Latest,
}

/// Connections that are not in use; the one that was used last is taken first. Each is back before its group is answered,
/// so that whoever calls again then finds it, rather than another one that may not be open.
#[derive(Clone)]
struct Idle(Arc<Mutex<Vec<Link>>>);

impl Idle {
    fn of(links: impl Iterator<Item = Link>) -> Idle {
        Idle(Arc::new(Mutex::new(links.collect())))
    }

    fn take(&self) -> Option<Link> {
        self.links().pop()
    }

    fn put_back(&self, link: Link) {
        self.links().push(link);
    }

    fn is_empty(&self) -> bool {
        self.links().is_empty()
    }

    fn links(&self) -> MutexGuard<'_, Vec<Link>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// The group that was sent last.
struct Latest {
    calls: usize,
    turn_ends: Instant,
}

impl<C: Call> Runner<C> {
    async fn run(mut self, mut waiting: mpsc::Receiver<Waiting<C>>) {
        let closing = self.shared.closing.clone();
        let mut open = true;
        loop {
            while self.has_group(waiting.len())
                && let Some(link) = self.idle.take()
            {
                // Callers that are about to call come along: what one commit sets free calls again at about the same time.
                for _ in 0..YIELDS_MAX {
                    yield_now().await;
                    let held = self.held.len();
                    while self.held.len() < GROUP_CALLS_MAX
                        && let Ok(call) = waiting.try_recv()
                    {
                        self.held.push_back(call);
                    }
                    if self.held.len() == held {
                        break;
                    }
                }
                let group = self.next_group();
                self.latest = Latest {
                    calls: group.len(),
                    turn_ends: Instant::now() + turn_time_max::<C>(),
                };
                self.running
                    .spawn(carry_out(group, link, self.idle.clone(), self.shared.clone()));
            }
            if !open && self.held.is_empty() && self.running.is_empty() {
                return;
            }
            tokio::select! {
                () = closing.cancelled(), if !waiting.is_closed() => waiting.close(),
                call = waiting.recv(), if open && (self.held.is_empty() || !self.idle.is_empty()) => match call {
                    Some(call) => self.held.push_back(call),
                    None => open = false,
                },
                () = sleep_until(self.latest.turn_ends), if !self.held.is_empty() && !self.idle.is_empty() => {}
                Some(ended) = self.running.join_next() => self.ended(ended),
            }
        }
    }

    /// Whether there is something to be sent now, should a connection be free; `waiting` calls are not held yet.
    fn has_group(&self, waiting: usize) -> bool {
        !self.held.is_empty()
            && (self.running.is_empty()
                || self.held.len() + waiting >= self.large_enough()
                || Instant::now() >= self.latest.turn_ends)
    }

    /// The number of calls in a group that goes beside one under way.
    fn large_enough(&self) -> usize {
        if C::TAKES_TURNS {
            self.latest.calls
        } else {
            GROUP_CALLS_MAX
        }
    }

    /// The oldest calls that fit into one statement; a later call with a subject that is taken stays behind.
    fn next_group(&mut self) -> Vec<Waiting<C>> {
        let mut group = Vec::new();
        let mut left = VecDeque::new();
        let mut subjects = HashSet::new();
        let mut rows = 0;
        let mut calls_max = GROUP_CALLS_MAX;
        while let Some(next) = self.held.pop_front() {
            let fits = group.is_empty()
                || (group.len() < calls_max.min(next.company_max)
                    && rows + next.call.rows() <= GROUP_ROWS_MAX);
            if !fits {
                left.push_back(next);
                break;
            }
            let subject = next.call.subject();
            if subject.is_some_and(|subject| !subjects.insert(subject)) {
                left.push_back(next);
                continue;
            }
            rows += next.call.rows();
            calls_max = calls_max.min(next.company_max);
            group.push(next);
        }
        left.append(&mut self.held);
        self.held = left;
        group
    }

    fn ended(&mut self, ended: Result<Vec<Waiting<C>>, tokio::task::JoinError>) {
        if !C::TAKES_TURNS {
            // A group that hangs beside it holds up no further ones.
            self.latest.turn_ends = Instant::now();
        }
        match ended {
            Ok(again) => {
                for call in again.into_iter().rev() {
                    self.held.push_front(call);
                }
            }
            Err(error) => {
                // Its callers are told by their channels.
                tracing::error!(%error, attempted = C::ATTEMPTED, "a group ended abnormally");
                self.idle.put_back(Link::new(self.pool.clone(), C::CLASS));
            }
        }
    }
}

fn turn_time_max<C: Call>() -> Duration {
    if C::TAKES_TURNS {
        TURN_TIME_MAX
    } else {
        LONG_TURN_TIME_MAX
    }
}

async fn carry_out<C: Call>(
    group: Vec<Waiting<C>>,
    mut link: Link,
    idle: Idle,
    shared: Arc<Shared>,
) -> Vec<Waiting<C>> {
    let started = Instant::now();
    let calls: Vec<&C> = group.iter().map(|waiting| &waiting.call).collect();
    let mut result = C::carry_out(&calls, &mut link, &shared).await;
    if let (Err(failure), [_], true) = (&result, &calls[..], C::STORES) {
        result = Err(probe::judged(failure.clone(), &mut link).await);
    }
    idle.put_back(link);
    let failure = match result {
        Ok(answers) => {
            if C::STORES {
                shared.metrics.committed(group.len(), started.elapsed());
            }
            for (waiting, answer) in group.into_iter().zip(answers) {
                // A caller that is gone wants no answer.
                let _ = waiting.answer.send(answer);
            }
            return Vec::new();
        }
        Err(failure) => failure,
    };
    shared.unsure(&failure);
    shared.metrics.store_errors.inc();
    // One wrong call must not fail the others of its group: it is looked for by halves.
    let halved = failure.may_be_of_one() && group.len() > 1;
    let company_max = if halved { group.len() / 2 } else { GROUP_CALLS_MAX };
    let mut again = Vec::new();
    for mut waiting in group {
        let deadlocked = matches!(failure, Failure::Again(_));
        waiting.tries += u32::from(deadlocked);
        waiting.company_max = waiting.company_max.min(company_max);
        if halved || (deadlocked && waiting.tries < TRIES_MAX) {
            again.push(waiting);
        } else {
            let _ = waiting.answer.send(Err(failure.to_error(C::ATTEMPTED)));
        }
    }
    again
}
