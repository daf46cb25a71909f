//! Limits the time a client may take at each stage of a connection. The stream, the service and the answer bodies
//! report the stages; the listener ends the connection.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Limits;
use crate::http::observed_stream::{Direction, StreamObserver};
use head_end::HeadEnd;

mod head_end;

/// State shared by the parts of one connection, all in one task.
pub struct Watch {
    limits: Limits,
    state: Mutex<State>,
    /// Signals that the connection's place is needed.
    evicted: Notify,
}

/// State of a client's key check, which decides whether its connection may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCheck {
    /// No request has been admitted yet.
    Pending,
    /// The server requires no key.
    NotRequired,
    Passed,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about one connection"
)]
struct State {
    stage: Stage,
    since: Instant,
    /// Instant since which the client has read nothing of its answer.
    write_blocked: Option<Instant>,
    /// Instant since which the client has sent nothing while the server would read.
    read_blocked: Option<Instant>,
    /// Set when the last answer is an event stream, which may have ended before all of it was sent.
    streams: bool,
    draining_since: Option<Instant>,
    head_end: HeadEnd,
    /// Bytes received after the end of the request's head: its body, and perhaps the start of the next head.
    after_head: u64,
    /// Length of the request's body, if its head was seen to end and declared it.
    body: Option<u64>,
    /// Set when the request's body was read to its end.
    body_read: bool,
    answered_early: bool,
    /// Set when the last bytes received end a chunked body.
    last_chunk_arrived: bool,
    /// Set when the answer may wait for something to happen; a client that closes its side meanwhile is gone.
    may_wait: bool,
    /// Reads on once the answer is over: the client has closed its side, and its request is still answered.
    reader: Option<Waker>,
    key_check: KeyCheck,
    /// Set after a 101 answer: the connection no longer speaks HTTP.
    taken_over: bool,
    evicted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was received yet.
    Fresh,
    /// A request's head is arriving.
    Head,
    /// A request is being answered; its route limits the time of its body.
    Answering,
    /// The last answer is complete.
    Idle,
}

impl Watch {
    pub fn new(limits: Limits) -> Watch {
        Watch {
            limits,
            state: Mutex::new(State {
                stage: Stage::Fresh,
                since: Instant::now(),
                write_blocked: None,
                read_blocked: None,
                streams: false,
                draining_since: None,
                head_end: HeadEnd::default(),
                after_head: 0,
                body: None,
                body_read: false,
                answered_early: false,
                last_chunk_arrived: false,
                may_wait: false,
                reader: None,
                key_check: KeyCheck::Pending,
                taken_over: false,
                evicted: false,
            }),
            evicted: Notify::new(),
        }
    }

    /// Records that the head of a request is complete. `body` is the length of its body, if known.
    pub fn request_begins(&self, body: Option<u64>, may_wait: bool) {
        let mut state = self.state();
        state.body_read = body == Some(0);
        state.may_wait = may_wait;
        // The end of a head that came together with the previous request was not seen.
        state.body = body.filter(|_| state.head_end.found);
        state.streams = false;
        state.enter(Stage::Answering);
    }

    /// Records that the answer is an event stream.
    pub fn streams(&self) {
        self.state().streams = true;
    }

    /// Records that the answer is a 101.
    pub fn take_over(&self) {
        self.state().taken_over = true;
    }

    /// Reports whether the client still sends its body when the answer begins. If so, the connection ends after the
    /// answer.
    pub fn answers_early(&self) -> bool {
        let mut state = self.state();
        let unread = !state.body_read && state.body.is_none_or(|body| state.after_head < body);
        state.answered_early = unread;
        unread
    }

    /// Reports whether the last answer began before the whole request had arrived.
    pub fn answered_early(&self) -> bool {
        self.state().answered_early
    }

    pub fn set_key_check(&self, key_check: KeyCheck) {
        self.state().key_check = key_check;
    }

    pub fn awaits_key_check(&self) -> bool {
        self.state().key_check == KeyCheck::Pending
    }

    /// Returns the instant since which a client without the key has moved no byte while the server waits for it: for its next
    /// request or, after at least [`Limits::eviction_stall`], for the rest of a request or for it to read its answer.
    /// `None` if it sent the key, if its request is in progress, or if it is being evicted.
    pub fn evictable_since(&self) -> Option<Instant> {
        let state = self.state();
        let may_go = state.key_check != KeyCheck::Passed && !state.taken_over && !state.evicted;
        if !may_go {
            return None;
        }
        match state.stalled_since() {
            Some(since) => (since.elapsed() >= self.limits.eviction_stall).then_some(since),
            None => state.idle_since(),
        }
    }

    pub fn evict(&self) {
        self.state().evicted = true;
        self.evicted.notify_one();
    }

    /// Resolves when the connection's place is needed. Cancel safe.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Records that everything was sent; further bytes from the client are discarded.
    pub fn lingers(&self) {
        self.state().enter(Stage::Idle);
    }

    pub(super) fn body_ends(&self) {
        self.state().body_read = true;
    }

    /// Reports whether to hide the end of the client's bytes from hyper for now: at that end hyper would drop the
    /// request.
    fn hides_end(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        let answered = state.stage == Stage::Answering && state.has_arrived();
        let keeps = answered && !state.may_wait && !state.taken_over;
        if keeps {
            state.reader = Some(waker.clone());
        }
        keeps
    }

    /// Records that the server drains. An event stream then ends by itself, unless its client reads nothing: the
    /// answer's body is not polled while its last data is unsent.
    pub fn drains(&self) {
        self.state().draining_since.get_or_insert_with(Instant::now);
    }

    pub(super) fn answer_ends(&self) {
        let mut state = self.state();
        let next_began = state.body.is_some_and(|body| state.after_head > body);
        state.head_end = HeadEnd::default();
        state.after_head = 0;
        state.enter(if next_began { Stage::Head } else { Stage::Idle });
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    fn bytes_arrived(&self, bytes: &[u8]) {
        let mut state = self.state();
        match state.stage {
            Stage::Fresh | Stage::Idle => state.enter(Stage::Head),
            Stage::Head | Stage::Answering => {}
        }
        state.after_head += state.head_end.bytes_after(bytes) as u64;
        state.last_chunk_arrived = bytes.ends_with(LAST_CHUNK);
    }

    fn blocked(&self, direction: Direction, blocked: bool) {
        let mut state = self.state();
        let since = match direction {
            Direction::Read => &mut state.read_blocked,
            Direction::Write => &mut state.write_blocked,
        };
        *since = blocked.then(|| since.unwrap_or_else(Instant::now));
    }

    /// Resolves when a limit is exceeded. Cancel safe; call it again after [`Watch::drains`] and [`Watch::evict`].
    ///
    /// Stages change with every request, timers do not: a sleep is at most the shortest limit, so a deadline that
    /// appears meanwhile is still ahead when the sleep ends.
    pub async fn expired(&self) {
        let limits = &self.limits;
        let (draining, evicted) = {
            let state = self.state();
            (state.draining_since.is_some(), state.evicted)
        };
        let shortest = [limits.first_byte, limits.head, limits.idle, limits.write_stall]
            .into_iter()
            .chain(draining.then_some(limits.draining_stream_stall))
            .chain(evicted.then_some(limits.eviction_stall))
            .fold(limits.first_byte, std::time::Duration::min);
        loop {
            let now = Instant::now();
            let deadline = self.deadline();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return;
            }
            let check_again = now + shortest;
            sleep_until(deadline.map_or(check_again, |deadline| deadline.min(check_again))).await;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        let read = match state.stage {
            Stage::Fresh => Some(state.since + self.limits.first_byte),
            Stage::Head => Some(state.since + self.limits.head),
            Stage::Answering => None,
            Stage::Idle => Some(state.since + self.limits.idle),
        };
        let write = state.write_blocked.map(|since| {
            let deadline = since + self.limits.write_stall;
            match state.draining_since.filter(|_| state.streams) {
                Some(drains) => deadline.min(since.max(drains) + self.limits.draining_stream_stall),
                None => deadline,
            }
        });
        let stalled = state.stalled_since().filter(|_| state.evicted);
        let place = stalled.map(|since| since + self.limits.eviction_stall);
        [read, write, place].into_iter().flatten().min()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every write leaves it whole, even if a thread panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.since = Instant::now();
    }

    /// Returns the instant since which the client has held back the rest of its request or read nothing of its answer.
    /// A healthy body looks the same most of the time. A head counts from its first byte.
    fn stalled_since(&self) -> Option<Instant> {
        self.write_blocked.or_else(|| match self.stage {
            Stage::Head => Some(self.since),
            Stage::Answering => self.body_blocked(),
            Stage::Fresh | Stage::Idle => None,
        })
    }

    /// Returns the instant since which no request is in progress.
    fn idle_since(&self) -> Option<Instant> {
        match self.stage {
            Stage::Fresh | Stage::Idle => Some(self.since),
            Stage::Head | Stage::Answering => None,
        }
    }

    /// Returns the instant since which the client has sent nothing of a body that the server would read.
    fn body_blocked(&self) -> Option<Instant> {
        self.read_blocked.filter(|_| !self.has_arrived())
    }

    /// Reports whether the request's body has arrived to its end.
    fn has_arrived(&self) -> bool {
        match self.body {
            Some(body) => self.after_head >= body,
            None => self.body_read || self.last_chunk_arrived,
        }
    }
}

/// End of a chunked body without trailers (RFC 9112 section 7.1). Data may look like it; if such a client closes its
/// side in the middle of a body, the server waits as for any body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl StreamObserver for Arc<Watch> {
    fn blocked(&mut self, direction: Direction, blocked: bool) {
        Watch::blocked(self, direction, blocked);
    }

    fn arrived(&mut self, bytes: &[u8], context: &Context<'_>) -> Poll<io::Result<()>> {
        if !bytes.is_empty() {
            self.bytes_arrived(bytes);
        } else if self.hides_end(context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}
