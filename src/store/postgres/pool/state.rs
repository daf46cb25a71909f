//! The state of the pool: its connections, the callers that wait for one, and the number of connections that the
//! database allows.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::classes::{CLASSES, CONNECTIONS_MAX, Class, InUse};
use super::super::connect::Connection;
use super::super::failure::PgFailure;
use super::PooledConnection;
use crate::log_lines::Latch;

/// The pause before a connection beyond the limit is tried again. It doubles with each refusal: the first refusal may
/// be due to a connection that was just being closed.
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(250);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(30);

/// The time after which an idle connection is closed, because other nodes may want it.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// The idle time while the database allows fewer connections than [`CONNECTIONS_MAX`].
const IDLE_MAX_WHEN_SCARCE: Duration = Duration::from_secs(2);
/// Idle connections that stay open. Without them, a quiet node would open one again every minute.
const IDLE_KEPT: usize = 2;
const IDLE_KEPT_WHEN_SCARCE: usize = 1;

/// The connections of the pool, and who waits for one. Guarded by the pool's lock.
pub(super) struct PoolState {
    /// Idle connections, the latest used last. That one is taken first, so that few stay in use.
    pub idle: Vec<Connection>,
    pub in_use: InUse,
    /// Connections being opened. Each goes to the caller that is most urgent when it is open.
    pub opening: usize,
    /// Connections that were given up and are not closed yet.
    pub closing: usize,
    /// Connections in use whose callers are gone.
    pub abandoned: usize,
    /// The number of connections that the node may open, as far as it knows. At most `share`.
    pub allowed: usize,
    /// The node's share of what the database's settings allow; [`CONNECTIONS_MAX`] while they are unknown.
    pub share: usize,
    /// Callers have wanted more connections than the share since it was set.
    pub wants_more: bool,
    pub refusals: Refusals,
    /// The time of the latest statement that ran.
    pub worked_at: Option<Instant>,
    pub waiting: [VecDeque<Waiter>; CLASSES],
    pub closed: bool,
}

pub(super) type Waiter = oneshot::Sender<Result<PooledConnection, PgFailure>>;

/// The database's refusals to open another connection, as far as the node knows.
#[derive(Default)]
pub(super) struct Refusals {
    /// The time from which a connection beyond the limit may be tried; `None` without an earlier refusal.
    pub probe_at: Option<Instant>,
    pause: Duration,
    /// A connection beyond the limit is being opened. Set by `Pool::serve`, cleared by the task that opens it.
    pub probing: bool,
    /// The log says that the database allows fewer connections than the share.
    logged: Latch,
}

impl PoolState {
    pub fn new() -> PoolState {
        PoolState {
            idle: Vec::new(),
            in_use: [0; CLASSES],
            opening: 0,
            closing: 0,
            abandoned: 0,
            allowed: CONNECTIONS_MAX,
            share: CONNECTIONS_MAX,
            wants_more: false,
            refusals: Refusals::default(),
            worked_at: None,
            waiting: Default::default(),
            closed: false,
        }
    }

    /// Returns the number of connections that the database counts, or may still count.
    pub fn open_count(&self) -> usize {
        self.idle.len() + self.used_count() + self.opening + self.closing
    }

    /// Reports whether more connections are open than allowed, not counting the one that probes the limit.
    pub fn has_surplus(&self) -> bool {
        self.open_count() > self.allowed + usize::from(self.refusals.probing)
    }

    pub fn used_count(&self) -> usize {
        self.in_use.iter().sum()
    }

    /// Reports whether no caller uses a connection.
    pub fn all_came_back(&self) -> bool {
        self.used_count() == self.abandoned
    }

    /// Returns the classes of the waiting callers that may have a connection if `allowed` may be open, the most
    /// urgent first.
    pub fn entitled(&self, allowed: usize) -> Vec<Class> {
        let mut planned = self.in_use;
        let mut entitled = Vec::new();
        for class in Class::all() {
            for _ in 0..self.waiting[class.rank()].len() {
                if !class.may_use_one_more(&planned, allowed) {
                    break;
                }
                planned[class.rank()] += 1;
                entitled.push(class);
            }
        }
        entitled
    }

    /// Forgets the callers that no longer wait.
    pub fn forget_gone(&mut self) {
        for waiting in &mut self.waiting {
            waiting.retain(|waiter| !waiter.is_closed());
        }
    }

    /// Fails the first waiting caller of the class.
    pub fn refuse(&mut self, class: Class, failure: &PgFailure) {
        if let Some(waiter) = self.waiting[class.rank()].pop_front() {
            // The caller may be gone.
            let _ = waiter.send(Err(failure.clone()));
        }
    }

    /// Takes an idle connection that can serve the class.
    pub fn take_idle(&mut self, class: Class) -> Option<Connection> {
        self.idle.retain(|connection| !connection.client.is_closed());
        let place = self
            .idle
            .iter()
            .rposition(|connection| !connection.only_reads || !class.must_write())?;
        Some(self.idle.remove(place))
    }

    /// Closes the idle connections to a server that takes no writes any more, and this one.
    pub fn leave_server(&mut self, connection: Connection) {
        for idle in self.idle.extract_if(.., |idle| idle.server == connection.server) {
            idle.close();
        }
        connection.close();
    }

    /// Closes an idle read-only connection, so that another can be opened.
    pub fn make_room(&mut self) {
        if let Some(useless) = self.idle.iter().position(|connection| connection.only_reads) {
            self.idle.remove(useless).close();
        }
    }

    /// Closes idle connections beyond the limit.
    pub fn trim(&mut self) {
        while self.has_surplus() && !self.idle.is_empty() {
            self.idle.remove(0).close();
        }
    }

    /// Closes connections that were idle for long. Reports whether others may have to be closed later.
    pub fn close_unused(&mut self) -> bool {
        let is_scarce = self.allowed < CONNECTIONS_MAX;
        let (idle_max, kept) = if is_scarce {
            (IDLE_MAX_WHEN_SCARCE, IDLE_KEPT_WHEN_SCARCE)
        } else {
            (IDLE_MAX, IDLE_KEPT)
        };
        while self.idle.len() > kept && self.idle[0].used.elapsed() > idle_max {
            self.idle.remove(0).close();
        }
        self.idle.len() > kept
    }

    pub fn is_waited_for(&self) -> bool {
        self.waiting.iter().flatten().any(|waiter| !waiter.is_closed())
    }

    /// Reports whether connections within the limit are being opened.
    pub fn is_connecting(&self) -> bool {
        self.opening > usize::from(self.refusals.probing)
    }

    /// Reports whether a connection beyond the limit may be tried now.
    pub fn may_probe(&self) -> bool {
        let due = self.refusals.probe_at.is_some_and(|at| at <= Instant::now());
        due && !self.refusals.probing && self.allowed < self.share
    }

    /// Sets the node's share of what the database's settings allow. A lower share applies at once; a higher one is
    /// tried step by step.
    pub fn set_share(&mut self, share: usize) {
        self.wants_more = false;
        let share = share.clamp(1, CONNECTIONS_MAX);
        let grows = share > self.share;
        self.share = share;
        if share <= self.allowed {
            self.allowed = share;
            self.refusals.logged.clear();
            self.trim();
        } else if grows {
            self.refusals.pause = Duration::ZERO;
            self.refusals.probe_at = Some(Instant::now());
        }
    }

    /// Lowers the limit after a refusal to the connections that are open, and schedules the next try.
    pub fn lower_limit(&mut self, failure: &PgFailure) {
        let before = self.allowed;
        // Other connections being opened may be refused, too.
        self.allowed = (self.open_count() - self.opening).clamp(1, self.share);
        // When a node leaves, the others' shares grow before all of its connections are closed, so a single refusal
        // means nothing.
        let is_below_known_share = before == self.share;
        let is_repeated = !self.refusals.logged.is_set() && !self.refusals.pause.is_zero();
        if self.allowed < self.share && (is_below_known_share || is_repeated) {
            self.refusals.logged.set();
            let error = failure.to_error("connect");
            tracing::warn!(
                %error,
                "the database allows this node {} of its {} connections: it works more slowly until the limit is raised",
                self.allowed,
                self.share,
            );
        }
        self.refusals.pause = (self.refusals.pause * 2).clamp(PROBE_PAUSE_MIN, PROBE_PAUSE_MAX);
        self.refusals.probe_at = Some(Instant::now() + self.refusals.pause);
    }

    /// Schedules the next try, after one that failed for another reason.
    pub fn probe_later(&mut self) {
        self.refusals.probe_at = Some(Instant::now() + PROBE_PAUSE_MIN.max(self.refusals.pause));
    }

    /// Raises the limit by one, after a connection beyond it was opened.
    pub fn raise_limit(&mut self) {
        self.allowed = (self.allowed + 1).min(self.share);
        self.refusals.pause = Duration::ZERO;
        if self.allowed < self.share {
            self.refusals.probe_at = Some(Instant::now() + PROBE_PAUSE_MIN);
            return;
        }
        self.refusals.probe_at = None;
        if self.refusals.logged.clear() {
            tracing::info!(
                "the database allows this node all of its {} connections again",
                self.share
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_entitled_to_no_more_than_it_may_use() {
        let mut state = PoolState::new();
        let mut callers = Vec::new();
        for class in [Class::List, Class::List, Class::Claim] {
            let (waiter, caller) = oneshot::channel();
            state.waiting[class.rank()].push_back(waiter);
            callers.push(caller);
        }
        assert_eq!(state.entitled(4), [Class::Claim, Class::List]);
        assert_eq!(state.entitled(9), [Class::Claim, Class::List]);
        assert_eq!(
            state.entitled(CONNECTIONS_MAX),
            [Class::Claim, Class::List, Class::List]
        );
        state.in_use[Class::List.rank()] = 1;
        assert_eq!(state.entitled(4), [Class::Claim]);
        drop(callers);
        state.forget_gone();
        assert_eq!(state.entitled(CONNECTIONS_MAX), []);
    }

    #[test]
    fn the_limit_never_exceeds_the_share() {
        let mut state = PoolState::new();
        state.set_share(5);
        assert_eq!((state.allowed, state.may_probe()), (5, false));
        state.in_use[Class::Settle.rank()] = 2;
        state.lower_limit(&PgFailure::Unavailable("(53300)".into()));
        assert_eq!(state.allowed, 2);
        state.raise_limit();
        state.set_share(3);
        assert_eq!((state.allowed, state.may_probe()), (3, false));
        // The higher share is tried step by step.
        state.set_share(4);
        assert_eq!((state.allowed, state.may_probe()), (3, true));
        state.raise_limit();
        assert_eq!((state.allowed, state.may_probe()), (4, false));
        state.raise_limit();
        assert_eq!(state.allowed, 4);
    }

    #[test]
    fn refusals_below_the_share_are_logged_once() {
        let refusal = PgFailure::Unavailable("(53300)".into());
        let mut state = PoolState::new();
        state.set_share(3);
        state.in_use[Class::Settle.rank()] = 2;
        state.lower_limit(&refusal);
        assert!(state.refusals.logged.is_set());
        state.raise_limit();
        assert!(!state.refusals.logged.is_set());
        // Another node left. Its connections may stay open for a moment.
        state.set_share(5);
        state.in_use[Class::Settle.rank()] = 3;
        state.lower_limit(&refusal);
        assert!(!state.refusals.logged.is_set());
        state.lower_limit(&refusal);
        assert!(state.refusals.logged.is_set());
        // The share is lowered to what the node has.
        state.set_share(3);
        assert!(!state.refusals.logged.is_set());
    }
}
