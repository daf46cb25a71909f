//! Group commit: calls that wait while the connections are busy share one statement, and are answered when it
//! commits. Reads of single orders share statements in the same way. No timer delays a group: it holds what arrived
//! while earlier groups committed. Each kind of call writes its own statement.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use super::class_connection::ClassConnection;
use super::classes::Class;
use super::failure::PgFailure;
use super::pool::Pool;
use super::probe;
use super::shared::Shared;
use crate::store::StoreError;

/// The most calls that wait for a connection; further callers wait for a place.
const CALLS_WAITING_MAX: usize = 16_384;
/// The most calls and rows in one statement: together they bound how long the first call waits for its answer.
const GROUP_CALLS_MAX: usize = 1_024;
const GROUP_ROWS_MAX: usize = 1_000;
/// The time after which a group no longer holds up the next. Before that, a second group goes beside it only when as
/// many calls wait as the first one has, so that two connections alternate with groups of similar size.
const GROUP_WAIT_MAX: Duration = Duration::from_millis(5);
/// The time after which a group no longer holds up the next where [`Call::FAVORS_LATENCY`] is false: a few large
/// groups serve these callers better than early answers.
const LARGE_GROUP_WAIT_MAX: Duration = Duration::from_millis(50);
/// The most yields to callers before a group is sent, so that a steady stream of calls does not hold it up.
const YIELDS_MAX: usize = 4;
/// The most times that a call runs whose statement is the victim of a deadlock.
const TRIES_MAX: u32 = 5;

/// A call that shares statements with others of its kind.
pub(super) trait Call: Send + Sync + Sized + 'static {
    type Answer: Send;
    /// Calls with the same subject do not go into one statement.
    type Subject: Eq + Hash + Send;
    const ATTEMPTED: &'static str;
    /// The class of the connections that run the calls.
    const CLASS: Class;
    /// The calls write; false when they only read.
    const STORES: bool = true;
    /// A group as large as the one under way is sent beside it. When false, only a full group is, or one beside a
    /// group that takes long.
    const FAVORS_LATENCY: bool = true;

    fn subject(&self) -> Option<Self::Subject>;

    /// Returns the number of rows of the call, at most [`GROUP_ROWS_MAX`].
    fn rows(&self) -> usize;

    /// Runs all calls in one transaction and answers them in the order given. A failure is that of all.
    fn run_group(
        calls: &[&Self],
        connection: &mut ClassConnection,
        shared: &Shared,
    ) -> impl Future<Output = Result<Vec<Result<Self::Answer, StoreError>>, PgFailure>> + Send;
}

/// Collects calls of one kind into groups.
pub(super) struct Groups<C: Call> {
    calls: mpsc::Sender<PendingCall<C>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct PendingCall<C: Call> {
    call: C,
    tries: u32,
    /// The most calls in a group with this one: half of a group that failed, when one call may be to blame.
    group_calls_max: usize,
    answer: oneshot::Sender<Result<C::Answer, StoreError>>,
}

impl<C: Call> Groups<C> {
    /// Starts the task that forms the groups. At most `groups` are under way at once.
    pub fn start(pool: &Arc<Pool>, groups: usize, shared: &Arc<Shared>) -> Groups<C> {
        let (calls, waiting) = mpsc::channel(CALLS_WAITING_MAX);
        let runner = GroupRunner {
            pool: pool.clone(),
            shared: shared.clone(),
            idle: IdleConnections::of((0..groups).map(|_| ClassConnection::new(pool.clone(), C::CLASS))),
            queued: VecDeque::new(),
            running: JoinSet::new(),
            latest: LatestGroup {
                calls: 0,
                wait_ends: Instant::now(),
            },
        };
        Groups {
            calls,
            task: Mutex::new(Some(tokio::spawn(runner.run(waiting)))),
        }
    }

    /// Adds a call and awaits its answer. Waits for a place when too many calls wait. Fails with
    /// [`StoreError::Closed`] when the store closes.
    pub async fn call(&self, call: C) -> Result<C::Answer, StoreError> {
        let (answer, answered) = oneshot::channel();
        let pending = PendingCall {
            call,
            tries: 0,
            group_calls_max: GROUP_CALLS_MAX,
            answer,
        };
        self.calls.send(pending).await.map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or_else(|_| {
            Err(StoreError::Unexpected {
                attempted: C::ATTEMPTED,
                source: anyhow::Error::msg("the task of the group commit ended before it answered"),
            })
        })
    }

    /// Waits until every call has run that waited when the store began to close.
    pub async fn close(&self) {
        let task = self
            .task
            .lock()
            .expect("no code panics while it holds this lock")
            .take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the task of a group commit ended abnormally");
        }
    }
}

struct GroupRunner<C: Call> {
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    idle: IdleConnections,
    /// Calls taken from the channel and not sent yet, the oldest first.
    queued: VecDeque<PendingCall<C>>,
    /// One task per connection in use. Returns the calls to try again.
    running: JoinSet<Vec<PendingCall<C>>>,
    latest: LatestGroup,
}

/// The connections that are not in use; the latest used is taken first. Each returns before its group is answered, so
/// that callers who call again at once find it, rather than another that may not be open.
#[derive(Clone)]
struct IdleConnections(Arc<Mutex<Vec<ClassConnection>>>);

impl IdleConnections {
    fn of(connections: impl Iterator<Item = ClassConnection>) -> IdleConnections {
        IdleConnections(Arc::new(Mutex::new(connections.collect())))
    }

    fn take(&self) -> Option<ClassConnection> {
        self.connections().pop()
    }

    fn put_back(&self, connection: ClassConnection) {
        self.connections().push(connection);
    }

    fn is_empty(&self) -> bool {
        self.connections().is_empty()
    }

    fn connections(&self) -> MutexGuard<'_, Vec<ClassConnection>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// The group that was sent last.
struct LatestGroup {
    calls: usize,
    wait_ends: Instant,
}

impl<C: Call> GroupRunner<C> {
    async fn run(mut self, mut waiting: mpsc::Receiver<PendingCall<C>>) {
        let closing = self.shared.closing.clone();
        let mut open = true;
        loop {
            while self.has_group(waiting.len())
                && let Some(connection) = self.idle.take()
            {
                // Callers that are about to call come along: those that one commit answers tend to call again
                // together.
                for _ in 0..YIELDS_MAX {
                    yield_now().await;
                    let before = self.queued.len();
                    while self.queued.len() < GROUP_CALLS_MAX
                        && let Ok(call) = waiting.try_recv()
                    {
                        self.queued.push_back(call);
                    }
                    if self.queued.len() == before {
                        break;
                    }
                }
                let group = self.next_group();
                self.latest = LatestGroup {
                    calls: group.len(),
                    wait_ends: Instant::now() + group_wait_max::<C>(),
                };
                self.running.spawn(run_and_answer(
                    group,
                    connection,
                    self.idle.clone(),
                    self.shared.clone(),
                ));
            }
            if !open && self.queued.is_empty() && self.running.is_empty() {
                return;
            }
            tokio::select! {
                () = closing.cancelled(), if !waiting.is_closed() => waiting.close(),
                call = waiting.recv(), if open && (self.queued.is_empty() || !self.idle.is_empty()) => match call {
                    Some(call) => self.queued.push_back(call),
                    None => open = false,
                },
                () = sleep_until(self.latest.wait_ends), if !self.queued.is_empty() && !self.idle.is_empty() => {}
                Some(ended) = self.running.join_next() => self.finish(ended),
            }
        }
    }

    /// Reports whether a group should be sent once a connection is free. `waiting` counts the calls still in the
    /// channel.
    fn has_group(&self, waiting: usize) -> bool {
        !self.queued.is_empty()
            && (self.running.is_empty()
                || self.queued.len() + waiting >= self.large_enough()
                || Instant::now() >= self.latest.wait_ends)
    }

    /// Returns the number of calls that make a group worth sending beside one under way.
    fn large_enough(&self) -> usize {
        if C::FAVORS_LATENCY {
            self.latest.calls
        } else {
            GROUP_CALLS_MAX
        }
    }

    /// Takes the oldest calls that fit into one statement. A later call whose subject is taken stays behind.
    fn next_group(&mut self) -> Vec<PendingCall<C>> {
        let mut group = Vec::new();
        let mut left = VecDeque::new();
        let mut subjects = HashSet::new();
        let mut rows = 0;
        let mut calls_max = GROUP_CALLS_MAX;
        while let Some(next) = self.queued.pop_front() {
            let fits = group.is_empty()
                || (group.len() < calls_max.min(next.group_calls_max)
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
            calls_max = calls_max.min(next.group_calls_max);
            group.push(next);
        }
        left.append(&mut self.queued);
        self.queued = left;
        group
    }

    fn finish(&mut self, ended: Result<Vec<PendingCall<C>>, tokio::task::JoinError>) {
        if !C::FAVORS_LATENCY {
            // Another group that hangs must not hold up further ones.
            self.latest.wait_ends = Instant::now();
        }
        match ended {
            Ok(retries) => {
                for call in retries.into_iter().rev() {
                    self.queued.push_front(call);
                }
            }
            Err(error) => {
                // The callers notice by their channels.
                tracing::error!(%error, attempted = C::ATTEMPTED, "a group ended abnormally");
                self.idle
                    .put_back(ClassConnection::new(self.pool.clone(), C::CLASS));
            }
        }
    }
}

fn group_wait_max<C: Call>() -> Duration {
    if C::FAVORS_LATENCY {
        GROUP_WAIT_MAX
    } else {
        LARGE_GROUP_WAIT_MAX
    }
}

async fn run_and_answer<C: Call>(
    group: Vec<PendingCall<C>>,
    mut connection: ClassConnection,
    idle: IdleConnections,
    shared: Arc<Shared>,
) -> Vec<PendingCall<C>> {
    let started = Instant::now();
    let calls: Vec<&C> = group.iter().map(|pending| &pending.call).collect();
    let mut result = C::run_group(&calls, &mut connection, &shared).await;
    if let (Err(failure), [_], true) = (&result, &calls[..], C::STORES) {
        result = Err(probe::refusal_if_store_works(failure.clone(), &mut connection).await);
    }
    idle.put_back(connection);
    let failure = match result {
        Ok(answers) => {
            if C::STORES {
                shared.metrics.committed(group.len(), started.elapsed());
            }
            for (pending, answer) in group.into_iter().zip(answers) {
                // The caller may be gone.
                let _ = pending.answer.send(answer);
            }
            return Vec::new();
        }
        Err(failure) => failure,
    };
    shared.note_possible_commit(&failure);
    shared.metrics.store_errors.inc();
    // One wrong call must not fail the others of its group: halving the group finds it.
    let halved = failure.may_concern_one_call() && group.len() > 1;
    let group_calls_max = if halved { group.len() / 2 } else { GROUP_CALLS_MAX };
    let mut retries = Vec::new();
    for mut pending in group {
        let deadlocked = matches!(failure, PgFailure::Again(_));
        pending.tries += u32::from(deadlocked);
        pending.group_calls_max = pending.group_calls_max.min(group_calls_max);
        if halved || (deadlocked && pending.tries < TRIES_MAX) {
            retries.push(pending);
        } else {
            let _ = pending.answer.send(Err(failure.to_error(C::ATTEMPTED)));
        }
    }
    retries
}
