//! The pool's connections, the callers that wait for one, and the number that the database allows.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::classes::{CLASSES, CONNECTIONS_MAX, Class, InUse};
use super::super::connect::Connection;
use super::super::failure::Failure;
use super::Lent;

/// The pause after a refusal for want of room, before one more connection is tried. It doubles with each refusal: the
/// first may be due to a connection that was just being closed.
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(250);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A connection unused for longer is closed: other nodes may want it.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// The idle limit while the database allows fewer connections than wanted.
const IDLE_MAX_AMONG_FEW: Duration = Duration::from_secs(2);
/// The idle connections kept all the same, and among few: a quiet node would open them again every minute.
const IDLE_KEPT: usize = 2;
const IDLE_KEPT_AMONG_FEW: usize = 1;

pub(super) struct Stock {
    /// The one used last at the end: it is taken first, so that few stay in use.
    pub idle: Vec<Connection>,
    pub in_use: InUse,
    /// Connections being opened, for the caller that is most urgent then.
    pub opening: usize,
    /// Connections given up and not closed yet.
    pub leaving: usize,
    /// Connections in use whose statements no caller awaits any more.
    pub abandoned: usize,
    /// The number of connections that the node counts on.
    pub allowed: usize,
    /// The node's share of what the database's settings allow, as far as they are known.
    pub share: usize,
    /// Callers wanted more than the share since that was set.
    pub wants_more: bool,
    pub refusals: Refusals,
    /// The time when a statement was last carried out.
    pub worked_at: Option<Instant>,
    pub waiting: [VecDeque<Waiter>; CLASSES],
    pub closed: bool,
}

pub(super) type Waiter = oneshot::Sender<Result<Lent, Failure>>;

/// The database's refusals for want of room, as far as the node knows.
#[derive(Default)]
pub(super) struct Refusals {
    /// The time when one more connection may be tried; `None` as long as there was no refusal.
    pub probe_at: Option<Instant>,
    pause: Duration,
    /// One connection beyond what is allowed is being opened. Set by `Pool::serve`, cleared by the task that opens it.
    pub probing: bool,
    /// The log says that the database allows less than the share.
    told: bool,
}

impl Stock {
    pub fn new() -> Stock {
        Stock {
            idle: Vec::new(),
            in_use: [0; CLASSES],
            opening: 0,
            leaving: 0,
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

    /// Connections that the database counts, or may count yet.
    pub fn open(&self) -> usize {
        self.idle.len() + self.used() + self.opening + self.leaving
    }

    /// Reports whether more connections are open than allowed, without the one that is to show whether there is room.
    pub fn has_surplus(&self) -> bool {
        self.open() > self.allowed + usize::from(self.refusals.probing)
    }

    pub fn used(&self) -> usize {
        self.in_use.iter().sum()
    }

    /// Reports whether no caller uses a connection.
    pub fn all_came_back(&self) -> bool {
        self.used() == self.abandoned
    }

    /// Returns the classes of the waiting callers that may have a connection when there are `allowed`, the most urgent
    /// first.
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

    /// Forgets the callers that wait no more.
    pub fn forget_gone(&mut self) {
        for waiting in &mut self.waiting {
            waiting.retain(|waiter| !waiter.is_closed());
        }
    }

    /// Tells the first caller of the class that there is no connection for it.
    pub fn refuse(&mut self, class: Class, failure: &Failure) {
        if let Some(waiter) = self.waiting[class.rank()].pop_front() {
            // A caller that is gone wants no answer.
            let _ = waiter.send(Err(failure.clone()));
        }
    }

    /// A free connection that serves the class.
    pub fn take_idle(&mut self, class: Class) -> Option<Connection> {
        self.idle.retain(|connection| !connection.client.is_closed());
        let place = self
            .idle
            .iter()
            .rposition(|connection| !connection.only_reads || !class.must_write())?;
        Some(self.idle.remove(place))
    }

    /// Closes all connections to a server that takes no writes any more.
    pub fn leave_server(&mut self, connection: Connection) {
        for idle in self.idle.extract_if(.., |idle| idle.server == connection.server) {
            idle.close();
        }
        connection.close();
    }

    /// Closes a connection that serves no waiting caller.
    pub fn make_room(&mut self) {
        if let Some(useless) = self.idle.iter().position(|connection| connection.only_reads) {
            self.idle.remove(useless).close();
        }
    }

    /// Closes unused connections beyond what is allowed.
    pub fn trim(&mut self) {
        while self.has_surplus() && !self.idle.is_empty() {
            self.idle.remove(0).close();
        }
    }

    /// Closes connections that no caller used for a while. Reports whether there may be more to be closed later.
    pub fn close_unused(&mut self) -> bool {
        let few = self.allowed < CONNECTIONS_MAX;
        let (idle_max, kept) = if few {
            (IDLE_MAX_AMONG_FEW, IDLE_KEPT_AMONG_FEW)
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

    /// Reports whether connections are being opened that the database is thought to allow.
    pub fn is_connecting(&self) -> bool {
        self.opening > usize::from(self.refusals.probing)
    }

    /// Reports whether it is time to try one connection more than allowed.
    pub fn may_probe(&self) -> bool {
        let due = self.refusals.probe_at.is_some_and(|at| at <= Instant::now());
        due && !self.refusals.probing && self.allowed < self.share
    }

    /// Sets the node's share of what the database's settings allow.
    pub fn set_share(&mut self, share: usize) {
        self.wants_more = false;
        let share = share.clamp(1, CONNECTIONS_MAX);
        let grows = share > self.share;
        self.share = share;
        if share <= self.allowed {
            self.allowed = share;
            self.refusals.told = false;
            self.trim();
        } else if grows {
            self.refusals.pause = Duration::ZERO;
            self.refusals.probe_at = Some(Instant::now());
        }
    }

    pub fn learn_of_refusal(&mut self, failure: &Failure) {
        let before = self.allowed;
        // Those that are being opened as well may be refused, too.
        self.allowed = (self.open() - self.opening).clamp(1, self.share);
        // When a node leaves, the others' shares grow before all of its connections are closed: one refusal means nothing.
        let lacks_what_it_had = before == self.share;
        let lacks_for_long = !self.refusals.told && !self.refusals.pause.is_zero();
        if self.allowed < self.share && (lacks_what_it_had || lacks_for_long) {
            self.refusals.told = true;
            let error = failure.to_error("connect");
            tracing::warn!(
                %error,
                "the database allows this node {} of its {} connections: it works more slowly",
                self.allowed,
                self.share,
            );
        }
        self.refusals.pause = (self.refusals.pause * 2).clamp(PROBE_PAUSE_MIN, PROBE_PAUSE_MAX);
        self.refusals.probe_at = Some(Instant::now() + self.refusals.pause);
    }

    pub fn probe_later(&mut self) {
        self.refusals.probe_at = Some(Instant::now() + PROBE_PAUSE_MIN.max(self.refusals.pause));
    }

    pub fn learn_of_room(&mut self) {
        self.allowed = (self.allowed + 1).min(self.share);
        self.refusals.pause = Duration::ZERO;
        if self.allowed < self.share {
            self.refusals.probe_at = Some(Instant::now() + PROBE_PAUSE_MIN);
            return;
        }
        self.refusals.probe_at = None;
        if std::mem::take(&mut self.refusals.told) {
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
        let mut stock = Stock::new();
        let mut callers = Vec::new();
        for class in [Class::List, Class::List, Class::Claim] {
            let (waiter, caller) = oneshot::channel();
            stock.waiting[class.rank()].push_back(waiter);
            callers.push(caller);
        }
        assert_eq!(stock.entitled(4), [Class::Claim, Class::List]);
        assert_eq!(stock.entitled(9), [Class::Claim, Class::List]);
        assert_eq!(
            stock.entitled(CONNECTIONS_MAX),
            [Class::Claim, Class::List, Class::List]
        );
        stock.in_use[Class::List.rank()] = 1;
        assert_eq!(stock.entitled(4), [Class::Claim]);
        drop(callers);
        stock.forget_gone();
        assert_eq!(stock.entitled(CONNECTIONS_MAX), []);
    }

    #[test]
    fn a_share_bounds_what_refusals_and_probes_teach() {
        let mut stock = Stock::new();
        stock.set_share(5);
        assert_eq!((stock.allowed, stock.may_probe()), (5, false));
        stock.in_use[Class::Settle.rank()] = 2;
        stock.learn_of_refusal(&Failure::Unavailable("(53300)".into()));
        assert_eq!(stock.allowed, 2);
        stock.learn_of_room();
        stock.set_share(3);
        assert_eq!((stock.allowed, stock.may_probe()), (3, false));
        // There is more, to be tried step by step.
        stock.set_share(4);
        assert_eq!((stock.allowed, stock.may_probe()), (3, true));
        stock.learn_of_room();
        assert_eq!((stock.allowed, stock.may_probe()), (4, false));
        stock.learn_of_room();
        assert_eq!(stock.allowed, 4);
    }

    #[test]
    fn the_log_tells_of_refusals_below_the_share_once() {
        let refusal = Failure::Unavailable("(53300)".into());
        let mut stock = Stock::new();
        stock.set_share(3);
        stock.in_use[Class::Settle.rank()] = 2;
        stock.learn_of_refusal(&refusal);
        assert!(stock.refusals.told);
        stock.learn_of_room();
        assert!(!stock.refusals.told);
        // Another node left. Its connections may be open for a moment longer.
        stock.set_share(5);
        stock.in_use[Class::Settle.rank()] = 3;
        stock.learn_of_refusal(&refusal);
        assert!(!stock.refusals.told);
        stock.learn_of_refusal(&refusal);
        assert!(stock.refusals.told);
        // The node has its share again, which is smaller.
        stock.set_share(3);
        assert!(!stock.refusals.told);
    }
}
