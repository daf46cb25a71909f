//! Judges how long a client may take at each stage of a connection. The stages are told by the stream, the
//! service and the answers' bodies; ending the connection is left to the listener.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Limits;
use crate::http::tapped::{Tap, Way};
use head_end::HeadEnd;

mod head_end;

/// Shared by the parts of one connection, all in one task.
pub struct Watch {
    limits: Limits,
    state: Mutex<State>,
    /// Its place is needed for another.
    sent_away: Notify,
}

/// The client at the other end, as far as it matters to which connection gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No request was admitted yet.
    Unknown,
    /// The server asks no client for a key.
    NoKeyAsked,
    Keyed,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about one connection"
)]
struct State {
    stage: Stage,
    since: Instant,
    /// Since when the client takes nothing of its answer.
    write_blocked: Option<Instant>,
    /// Since when the client sends nothing, while the server would read.
    read_blocked: Option<Instant>,
    /// The last answer is an event stream, which may have ended without all of it being sent.
    streams: bool,
    draining_since: Option<Instant>,
    head_end: HeadEnd,
    /// Bytes received after the end of the request's head: its body, and perhaps the next head's beginning.
    after_head: u64,
    /// Bytes of the request's body, where its head was seen to end and said so.
    body: Option<u64>,
    /// The request's body was read to its end.
    body_read: bool,
    answered_early: bool,
    /// The last bytes that arrived end a body that comes in chunks.
    last_chunk_came: bool,
    /// The answer may be held until something happens, and who closes its side meanwhile is gone.
    may_be_held: bool,
    /// Reads on once the answer is over: the client has closed its side, and its request is still answered.
    reader: Option<Waker>,
    standing: Standing,
    /// Answered by a 101: it is no longer a connection of HTTP.
    taken_over: bool,
    sent_away: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was received yet.
    Fresh,
    /// A request's head is arriving.
    Head,
    /// A request is being answered; how long its body may take is the route's business.
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
                last_chunk_came: false,
                may_be_held: false,
                reader: None,
                standing: Standing::Unknown,
                taken_over: false,
                sent_away: false,
            }),
            sent_away: Notify::new(),
        }
    }

    /// The head of a request is complete; its body has so many bytes, if that is known.
    pub fn request_begins(&self, body: Option<u64>, may_be_held: bool) {
        let mut state = self.state();
        state.body_read = body == Some(0);
        state.may_be_held = may_be_held;
        // A head that came whole with the request before was not seen to end.
        state.body = body.filter(|_| state.head_end.found);
        state.streams = false;
        state.enter(Stage::Answering);
    }

    /// The request is answered by an event stream.
    pub fn streams(&self) {
        self.state().streams = true;
    }

    /// The request is answered by a 101.
    pub fn is_taken_over(&self) {
        self.state().taken_over = true;
    }

    /// Reports whether the client still sends its body while the answer begins. If so, the connection ends after it.
    pub fn answers_early(&self) -> bool {
        let mut state = self.state();
        let unread = !state.body_read && state.body.is_none_or(|body| state.after_head < body);
        state.answered_early = unread;
        unread
    }

    /// Reports whether the last answer began before the request had come whole.
    pub fn answered_early(&self) -> bool {
        self.state().answered_early
    }

    pub fn stands(&self, standing: Standing) {
        self.state().standing = standing;
    }

    pub fn is_newcomer(&self) -> bool {
        self.state().standing == Standing::Unknown
    }

    /// The instant since which a client that has not shown the key has moved no byte while the server waits for it: for its
    /// next request or, at least [`Limits::give_way_stall`] ago, for the rest of one or for it to take more of its answer.
    /// `None` when it has shown the key, when the server is busy with its request, or when it was sent away already.
    pub fn idle_stranger_since(&self) -> Option<Instant> {
        let state = self.state();
        let may_go = state.standing != Standing::Keyed && !state.taken_over && !state.sent_away;
        if !may_go {
            return None;
        }
        match state.stalled_since() {
            Some(since) => (since.elapsed() >= self.limits.give_way_stall).then_some(since),
            None => state.idle_since(),
        }
    }

    pub fn send_away(&self) {
        self.state().sent_away = true;
        self.sent_away.notify_one();
    }

    /// Resolves when its place is needed for another. Cancel safe.
    pub async fn sent_away(&self) {
        self.sent_away.notified().await;
    }

    /// All that was to be said is said; what the client still sends is thrown away.
    pub fn lingers(&self) {
        self.state().enter(Stage::Idle);
    }

    pub(super) fn body_ends(&self) {
        self.state().body_read = true;
    }

    /// Reports whether hyper may not see the end of the client's bytes for now: at that end it would drop the request.
    fn keeps_end(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        let answered = state.stage == Stage::Answering && state.came_whole();
        let keeps = answered && !state.may_be_held && !state.taken_over;
        if keeps {
            state.reader = Some(waker.clone());
        }
        keeps
    }

    /// The server drains. An event stream then ends by itself, unless its client takes nothing of it: the answer's body
    /// is not asked for more while what it gave is not sent.
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
        state.after_head += state.head_end.bytes_behind(bytes) as u64;
        state.last_chunk_came = bytes.ends_with(LAST_CHUNK);
    }

    fn blocked(&self, way: Way, blocked: bool) {
        let mut state = self.state();
        let since = match way {
            Way::Read => &mut state.read_blocked,
            Way::Write => &mut state.write_blocked,
        };
        *since = blocked.then(|| since.unwrap_or_else(Instant::now));
    }

    /// Resolves when a limit is passed. Cancel safe; to be called anew after [`Watch::drains`] and [`Watch::send_away`].
    ///
    /// Stages change with every request, timers do not: the sleep is never longer than the shortest limit, so
    /// whatever deadline appears meanwhile is still ahead when it ends.
    pub async fn expired(&self) {
        let limits = &self.limits;
        let (draining, sent_away) = {
            let state = self.state();
            (state.draining_since.is_some(), state.sent_away)
        };
        let shortest = [limits.first_byte, limits.head, limits.idle, limits.write_stall]
            .into_iter()
            .chain(draining.then_some(limits.draining_stream_stall))
            .chain(sent_away.then_some(limits.give_way_stall))
            .fold(limits.first_byte, std::time::Duration::min);
        loop {
            let now = Instant::now();
            let deadline = self.deadline();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return;
            }
            let look_again = now + shortest;
            sleep_until(deadline.map_or(look_again, |deadline| deadline.min(look_again))).await;
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
        let stalled = state.stalled_since().filter(|_| state.sent_away);
        let place = stalled.map(|since| since + self.limits.give_way_stall);
        [read, write, place].into_iter().flatten().min()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every write to it is whole, whatever panicked around it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.since = Instant::now();
    }

    /// Instant since which the client keeps back the rest of its request, or takes nothing of its answer. A healthy body
    /// looks the same at most instants. A head counts from its first byte.
    fn stalled_since(&self) -> Option<Instant> {
        self.write_blocked.or_else(|| match self.stage {
            Stage::Head => Some(self.since),
            Stage::Answering => self.body_blocked(),
            Stage::Fresh | Stage::Idle => None,
        })
    }

    /// Instant since which no request is under way.
    fn idle_since(&self) -> Option<Instant> {
        match self.stage {
            Stage::Fresh | Stage::Idle => Some(self.since),
            Stage::Head | Stage::Answering => None,
        }
    }

    /// Since when the client sends nothing of a body that the server would read.
    fn body_blocked(&self) -> Option<Instant> {
        self.read_blocked.filter(|_| !self.came_whole())
    }

    /// Reports whether the request's body has arrived to its end.
    fn came_whole(&self) -> bool {
        match self.body {
            Some(body) => self.after_head >= body,
            None => self.body_read || self.last_chunk_came,
        }
    }
}

/// Ends a body in chunks, without trailers (RFC 9112 section 7.1). Data that looks like it, from a client that closes its
/// side in the middle of a body, is waited for as long as any body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Tap for Arc<Watch> {
    fn blocked(&mut self, way: Way, blocked: bool) {
        Watch::blocked(self, way, blocked);
    }

    fn arrived(&mut self, bytes: &[u8], context: &Context<'_>) -> Poll<io::Result<()>> {
        if !bytes.is_empty() {
            self.bytes_arrived(bytes);
        } else if self.keeps_end(context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}
