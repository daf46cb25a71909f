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

pub(super) struct Stock {
    /// The one used last at the end: it is taken first, so that few stay in use.
    pub idle: Vec<Connection>,
    pub in_use: InUse,
    /// Connections being opened, for the caller that is most urgent then.
    pub opening: usize,
    /// Connections given up and not closed yet.
    pub leaving: usize,
    /// The number of connections that the node counts on.
    pub allowed: usize,
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
    /// One beyond what is allowed is being opened.
    pub probing: bool,
}

impl Stock {
    pub fn new() -> Stock {
        Stock {
            idle: Vec::new(),
            in_use: [0; CLASSES],
            opening: 0,
            leaving: 0,
            allowed: CONNECTIONS_MAX,
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

    pub fn used(&self) -> usize {
        self.in_use.iter().sum()
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

    /// Closes a connection that serves no waiting caller.
    pub fn make_room(&mut self) {
        if let Some(useless) = self.idle.iter().position(|connection| connection.only_reads) {
            self.idle.remove(useless).close();
        }
    }

    pub fn is_waited_for(&self) -> bool {
        self.waiting.iter().flatten().any(|waiter| !waiter.is_closed())
    }

    /// Reports whether connections are being opened that the database is thought to allow.
    pub fn is_connecting(&self) -> bool {
        self.opening > usize::from(self.refusals.probing)
    }

    /// Returns how many connections may be open now: one more than allowed when it is time to try that.
    pub fn limit(&self) -> usize {
        let due = self.refusals.probe_at.is_some_and(|at| at <= Instant::now());
        if due && !self.refusals.probing && self.allowed < CONNECTIONS_MAX {
            self.allowed + 1
        } else {
            self.allowed
        }
    }

    /// Sets the number of connections that the database's settings allow.
    pub fn expect(&mut self, allowed: usize) {
        self.allowed = allowed.clamp(1, CONNECTIONS_MAX);
        if self.allowed < CONNECTIONS_MAX {
            // They may be changed.
            self.refusals.pause = PROBE_PAUSE_MAX;
            self.refusals.probe_at = Some(Instant::now() + PROBE_PAUSE_MAX);
        }
    }

    pub fn learn_of_refusal(&mut self, failure: &Failure) {
        let before = self.allowed;
        // Those that are being opened as well may be refused, too.
        self.allowed = (self.open() - self.opening).clamp(1, CONNECTIONS_MAX);
        if before == CONNECTIONS_MAX && self.allowed < CONNECTIONS_MAX {
            let error = failure.to_error("connect");
            tracing::warn!(
                %error,
                "the database allows this node {} of {CONNECTIONS_MAX} connections: it works more slowly",
                self.allowed,
            );
        }
        self.refusals.pause = (self.refusals.pause * 2).clamp(PROBE_PAUSE_MIN, PROBE_PAUSE_MAX);
        self.refusals.probe_at = Some(Instant::now() + self.refusals.pause);
    }

    pub fn probe_later(&mut self) {
        self.refusals.probe_at = Some(Instant::now() + PROBE_PAUSE_MIN.max(self.refusals.pause));
    }

    pub fn learn_of_room(&mut self) {
        self.allowed = (self.allowed + 1).min(CONNECTIONS_MAX);
        self.refusals.pause = Duration::ZERO;
        if self.allowed == CONNECTIONS_MAX {
            self.refusals.probe_at = None;
            tracing::info!("the database allows this node all of its {CONNECTIONS_MAX} connections again");
        } else {
            self.refusals.probe_at = Some(Instant::now() + PROBE_PAUSE_MIN);
        }
    }
}
