//! The connection pool of a node. All connections are alike, and each is checked out for one statement: an idle
//! caller holds none. The next free or newly opened connection goes to the most urgent class that waits. The pool
//! learns from the database how many connections it may open; `classes.rs` decides how many each class may use.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::classes::{CONNECTIONS_MAX, Class};
use super::connect::{Connection, Connector};
use super::connection_limit::is_connection_limit_refusal;
use super::failure::PgFailure;
use crate::log_lines::Latch;

mod checkout;
mod state;

pub(super) use checkout::{PooledConnection, Reservation};
use state::PoolState;

/// The reason a node gives for taking no orders while its results find no connection.
pub(super) const STARVED: &str = "no connection to the database is free for results";

/// The longest wait for a free connection, when all are in use and none is being opened.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The wait for a connection to come back before another is opened: most statements take less.
const GRACE: Duration = Duration::from_millis(5);
/// The interval between two searches for idle connections to close.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Opens, checks out and closes the connections of a node.
pub(super) struct Pool {
    connector: Arc<Connector>,
    state: Mutex<PoolState>,
    /// Notified when several connections are idle, or the store closes.
    returned: Notify,
    /// Notified when the connection limit may have changed, or the time of the next try to exceed it.
    limit_changed: Notify,
    /// Notified when a connection came back, so that perhaps none is in use any more.
    came_back: Notify,
    /// The latest result that wanted a connection found none.
    starved: Latch,
    tasks: TaskTracker,
}

impl Pool {
    pub fn new(connector: &Arc<Connector>) -> Arc<Pool> {
        let pool = Arc::new(Pool {
            connector: connector.clone(),
            state: Mutex::new(PoolState::new()),
            returned: Notify::new(),
            limit_changed: Notify::new(),
            came_back: Notify::new(),
            starved: Latch::default(),
            tasks: TaskTracker::new(),
        });
        pool.tasks.spawn(pool.clone().close_unused());
        pool
    }

    pub fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    /// Checks out a connection for the class, opening one if necessary. Waits behind more urgent classes. Fails with
    /// [`PgFailure::Unavailable`] when all connections stay in use for [`WAIT_MAX`], with the error of connecting, or
    /// with [`PgFailure::Closed`].
    pub async fn checkout(self: &Arc<Pool>, class: Class) -> Result<PooledConnection, PgFailure> {
        let pooled = self.wait(class).await;
        if class.is_urgent() {
            if !matches!(pooled, Err(PgFailure::Unavailable(_))) {
                self.starved.clear();
            } else if self.starved.set() {
                tracing::warn!(
                    "results find no connection to the database; starting no order until one is free. `orderly doctor` says what to do"
                );
            }
        }
        pooled
    }

    async fn wait(self: &Arc<Pool>, class: Class) -> Result<PooledConnection, PgFailure> {
        let (waiter, mut answer) = oneshot::channel();
        {
            let mut state = self.state();
            if state.closed {
                return Err(PgFailure::Closed);
            }
            state.waiting[class.rank()].push_back(waiter);
            self.serve(&mut state);
        }
        let mut wait_ends = Instant::now() + WAIT_MAX;
        loop {
            let limit_changed = self.limit_changed.notified();
            tokio::pin!(limit_changed);
            limit_changed.as_mut().enable();
            tokio::select! {
                answered = &mut answer => return answered.unwrap_or(Err(PgFailure::Closed)),
                () = sleep(self.next_try_in(wait_ends)) => {}
                () = limit_changed => {}
            }
            let mut state = self.state();
            self.serve(&mut state);
            if Instant::now() < wait_ends {
                continue;
            }
            // Connecting has its own time limit: a sleeping database may take longer to wake up.
            if state.is_connecting() {
                wait_ends = Instant::now() + SWEEP_INTERVAL;
                continue;
            }
            let in_use = state.open_count();
            drop(state);
            // The answer may have come just now.
            if let Ok(answered) = answer.try_recv() {
                return answered;
            }
            let text = format!("all {in_use} connections were in use for {WAIT_MAX:?}");
            return Err(PgFailure::Unavailable(text.into()));
        }
    }

    /// Returns the time until the caller gives up, or until a connection beyond the limit may be tried.
    fn next_try_in(&self, wait_ends: Instant) -> Duration {
        let probe_at = self.state().refusals.probe_at;
        let now = Instant::now();
        let next = probe_at
            .filter(|at| *at > now)
            .map_or(wait_ends, |at| at.min(wait_ends));
        next.saturating_duration_since(now)
    }

    /// Reserves one of the connections of the node for a connection opened outside the pool; `None` when there are
    /// too few.
    pub fn reserve(self: &Arc<Pool>, class: Class) -> Option<Reservation> {
        let mut state = self.state();
        let allowed = state.allowed;
        if state.closed || !class.may_use_one_more(&state.in_use, allowed) {
            return None;
        }
        if state.open_count() >= allowed {
            state.idle.pop()?.close();
        }
        state.in_use[class.rank()] += 1;
        Some(Reservation::new(self.clone(), class))
    }

    /// Adds a connection that was opened outside the pool.
    pub fn adopt(self: &Arc<Pool>, connection: Connection) {
        let mut state = self.state();
        state.idle.push(connection);
        self.serve(&mut state);
    }

    /// Sets how many of the connections that the database's settings allow are for this node.
    pub fn set_share(self: &Arc<Pool>, share: usize) {
        let mut state = self.state();
        state.set_share(share);
        self.serve(&mut state);
        drop(state);
        self.limit_changed.notify_waiters();
    }

    /// Reports whether callers wanted more connections than the node's share, and the share is below
    /// [`CONNECTIONS_MAX`].
    pub fn wants_more(&self) -> bool {
        let state = self.state();
        state.wants_more && state.share < CONNECTIONS_MAX
    }

    /// Reports whether the latest result found no connection.
    pub fn is_starved(&self) -> bool {
        self.starved.is_set()
    }

    /// Marks every idle connection to be checked before use, because one connection turned out to be lost.
    pub fn distrust_idle(&self) {
        for connection in &mut self.state().idle {
            connection.trusted_until = None;
        }
    }

    /// Hands out idle connections, the most urgent class first, and opens those that are missing.
    fn serve(self: &Arc<Pool>, state: &mut PoolState) {
        state.forget_gone();
        let read_only = self.connector.refuses_writes();
        let mut missing = 0;
        let mut refused = true;
        while std::mem::take(&mut refused) {
            missing = 0;
            for class in state.entitled(state.allowed) {
                if let Some(connection) = state.take_idle(class) {
                    self.give_to_waiter(state, class, connection);
                } else if let Some(failure) = read_only.as_ref().filter(|_| class.must_write()) {
                    state.refuse(class, failure);
                    // The next caller of the class has its turn.
                    refused = true;
                } else {
                    missing += 1;
                }
            }
        }
        if missing > 0 && state.open_count() >= state.allowed {
            state.make_room();
        }
        while state.opening < missing && state.open_count() < state.allowed {
            self.begin_opening(state, false);
        }
        let wanted = state.entitled(state.allowed + 1).len();
        if state.open_count() >= state.allowed && state.opening < wanted {
            if state.may_probe() {
                state.refusals.probing = true;
                self.begin_opening(state, true);
            } else {
                state.wants_more |= state.allowed == state.share;
            }
        }
    }

    fn give_to_waiter(self: &Arc<Pool>, state: &mut PoolState, class: Class, connection: Connection) {
        let mut pooled = PooledConnection::new(self.clone(), class, connection);
        while let Some(waiter) = state.waiting[class.rank()].pop_front() {
            let Err(unwanted) = waiter.send(Ok(pooled)) else {
                state.in_use[class.rank()] += 1;
                return;
            };
            // The caller stopped waiting at this moment.
            pooled = unwanted.expect("the channel gives back the connection that was sent");
        }
        state.idle.extend(pooled.into_connection());
    }

    fn begin_opening(self: &Arc<Pool>, state: &mut PoolState, probes: bool) {
        state.opening += 1;
        let pool = self.clone();
        let may_come_back = state.used_count() > 0;
        self.tasks.spawn(async move {
            if may_come_back {
                sleep(GRACE).await;
            }
            pool.open(probes).await;
        });
    }

    /// Opens one connection. With `probes` it is one beyond the limit, to find out whether the database has room for
    /// it.
    async fn open(self: Arc<Pool>, probes: bool) {
        {
            let mut state = self.state();
            if state.closed || !state.is_waited_for() {
                state.opening -= 1;
                state.refusals.probing &= !probes;
                return;
            }
        }
        let began = Instant::now();
        let mut refused = false;
        let connected = self
            .connector
            .connect_unless(|failure| {
                let state = self.state();
                // Open connections of this node show how many the database allows; without one, a refusal shows
                // nothing.
                let has_others = state.open_count() > state.opening;
                // A database that hangs would hold up the other connections too.
                let others_work = state.worked_at.is_some_and(|worked_at| worked_at > began);
                refused = has_others
                    && match failure {
                        PgFailure::Hung(_) => others_work,
                        failure => is_connection_limit_refusal(failure),
                    };
                // When no caller waits any more, the next caller finds the failure itself.
                refused || !state.is_waited_for()
            })
            .await;
        let mut state = self.state();
        state.opening -= 1;
        state.refusals.probing &= !probes;
        match connected {
            Ok(connection) if state.closed => connection.close(),
            Ok(connection) => {
                if !connection.only_reads {
                    // The read-only connections lead to a server that takes no writes, or took none earlier.
                    state.idle.retain(|idle| !idle.only_reads);
                }
                state.idle.push(connection);
                if probes {
                    state.raise_limit();
                }
                state.trim();
            }
            Err(_) if state.closed => {}
            Err(failure) if refused => {
                state.lower_limit(&failure);
            }
            // The waiting callers can still get other connections.
            Err(_) if probes => state.probe_later(),
            Err(failure) => {
                if let Some(class) = state.entitled(state.allowed).first() {
                    state.refuse(*class, &failure);
                }
            }
        }
        self.serve(&mut state);
        self.came_back.notify_waiters();
        if probes || refused {
            self.limit_changed.notify_waiters();
        }
    }

    /// Ends a checkout. The connection is returned for further use unless it is `None`.
    fn give_back(self: &Arc<Pool>, class: Class, connection: Option<Connection>) {
        let mut state = self.state();
        state.in_use[class.rank()] -= 1;
        let connection = connection.filter(|connection| !connection.client.is_closed());
        if let Some(connection) = connection {
            state.worked_at = Some(connection.used);
            if state.closed {
                connection.close();
            } else if connection.only_reads && self.connector.must_write() {
                state.leave_server(connection);
                self.connector.leave_server();
            } else {
                state.idle.push(connection);
                state.trim();
            }
        }
        self.serve(&mut state);
        if state.idle.len() > 1 {
            self.returned.notify_one();
        }
        drop(state);
        self.came_back.notify_waiters();
    }

    /// Closes connections that were idle for long, until the pool closes.
    async fn close_unused(self: Arc<Pool>) {
        loop {
            self.returned.notified().await;
            loop {
                sleep(SWEEP_INTERVAL).await;
                let mut state = self.state();
                if state.closed {
                    return;
                }
                if !state.close_unused() {
                    break;
                }
            }
        }
    }

    /// Refuses further checkouts and waits until all connections are back.
    pub async fn close(self: &Arc<Pool>) {
        {
            let mut state = self.state();
            state.closed = true;
            for waiter in state.waiting.iter_mut().flat_map(|waiting| waiting.drain(..)) {
                let _ = waiter.send(Err(PgFailure::Closed));
            }
        }
        loop {
            let came_back = self.came_back.notified();
            tokio::pin!(came_back);
            came_back.as_mut().enable();
            if self.state().all_came_back() {
                break;
            }
            came_back.await;
        }
        for connection in self.state().idle.drain(..) {
            connection.close();
        }
        self.returned.notify_one();
    }

    /// Reports whether the holder of a [`Reservation`] for the class may keep it.
    pub fn may_keep(&self, class: Class) -> bool {
        let state = self.state();
        let mut without = state.in_use;
        without[class.rank()] -= 1;
        class.may_use_one_more(&without, state.allowed)
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
