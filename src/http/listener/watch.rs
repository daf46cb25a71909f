//! Judges how long a client may take at each stage of a connection. The stages are told by the stream, the
//! service and the answers' bodies; ending the connection is left to the listener.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::Limits;

/// Shared by the parts of one connection, all in one task.
pub struct Watch {
    limits: Limits,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    since: Instant,
    /// Since when the client takes nothing of its answer.
    write_blocked: Option<Instant>,
    /// The last answer is an event stream, which may have ended without all of it being sent.
    streams: bool,
    draining_since: Option<Instant>,
    head_end: HeadEnd,
    /// Bytes received after the end of the request's head: its body, and perhaps the next head's beginning.
    after_head: u64,
    /// Bytes of the request's body, where its head was seen to end and said so.
    body: Option<u64>,
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
                streams: false,
                draining_since: None,
                head_end: HeadEnd::default(),
                after_head: 0,
                body: None,
            }),
        }
    }

    /// The head of a request is complete; its body has so many bytes, if that is known.
    pub fn request_begins(&self, body: Option<u64>) {
        let mut state = self.state();
        // A head that came whole with the request before was not seen to end.
        state.body = body.filter(|_| state.head_end.found);
        state.streams = false;
        state.enter(Stage::Answering);
    }

    /// The request is answered by an event stream.
    pub fn streams(&self) {
        self.state().streams = true;
    }

    /// The server drains. An event stream then ends by itself, unless its client takes nothing of it: the answer's body
    /// is not asked for more while what it gave is not sent.
    pub fn drains(&self) {
        self.state().draining_since.get_or_insert_with(Instant::now);
    }

    fn answer_ends(&self) {
        let mut state = self.state();
        let next_began = state.body.is_some_and(|body| state.after_head > body);
        state.head_end = HeadEnd::default();
        state.after_head = 0;
        state.enter(if next_began { Stage::Head } else { Stage::Idle });
    }

    fn bytes_arrived(&self, bytes: &[u8]) {
        let mut state = self.state();
        match state.stage {
            Stage::Fresh | Stage::Idle => state.enter(Stage::Head),
            Stage::Head | Stage::Answering => {}
        }
        state.after_head += state.head_end.bytes_behind(bytes) as u64;
    }

    fn write_blocked(&self, blocked: bool) {
        let mut state = self.state();
        state.write_blocked = match (blocked, state.write_blocked) {
            (false, _) => None,
            (true, Some(since)) => Some(since),
            (true, None) => Some(Instant::now()),
        };
    }

    /// Resolves when a limit is passed. Cancel safe; to be called anew after [`Watch::drains`].
    ///
    /// Stages change with every request, timers do not: the sleep is never longer than the shortest limit, so
    /// whatever deadline appears meanwhile is still ahead when it ends.
    pub async fn expired(&self) {
        let limits = &self.limits;
        let draining = self.state().draining_since.is_some();
        let shortest = [limits.first_byte, limits.head, limits.idle, limits.write_stall]
            .into_iter()
            .chain(draining.then_some(limits.draining_stream_stall))
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
        match (read, write) {
            (Some(read), Some(write)) => Some(read.min(write)),
            (read, write) => read.or(write),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every write to it is whole, whatever panicked around it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks for the empty line that ends a request's head. Only to tell when the next one begins: reading heads is
/// hyper's part.
#[derive(Default)]
struct HeadEnd {
    /// Something other than line ends came: empty lines before a request do not count.
    began: bool,
    line_is_empty: bool,
    found: bool,
}

impl HeadEnd {
    /// How many of the next bytes stand behind the end of the head.
    fn bytes_behind(&mut self, bytes: &[u8]) -> usize {
        if self.found {
            return bytes.len();
        }
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\r' => {}
                b'\n' if self.began && self.line_is_empty => {
                    self.found = true;
                    return bytes.len() - index - 1;
                }
                b'\n' => self.line_is_empty = true,
                _ => {
                    self.began = true;
                    self.line_is_empty = false;
                }
            }
        }
        0
    }
}

impl State {
    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.since = Instant::now();
    }
}

/// A stream that tells what passes through it.
pub struct WatchedIo<S> {
    stream: S,
    watch: Arc<Watch>,
}

impl<S> WatchedIo<S> {
    pub fn new(stream: S, watch: Arc<Watch>) -> WatchedIo<S> {
        WatchedIo { stream, watch }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.watch.write_blocked(written.is_pending());
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let arrived = &buffer.filled()[before..];
        if !arrived.is_empty() {
            self.watch.bytes_arrived(arrived);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A piece of an answer that is handed on at once. hyper copies what it gets behind the head, as long as that is not too much:
/// so little of a long answer is there twice, and the rest stays with whoever counts its memory.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// The body of an answer in pieces, which tells when it is over - sent or given up.
pub struct WatchedBody {
    body: Body,
    /// What the body gave and is not handed on yet.
    rest: Bytes,
    watch: Arc<Watch>,
}

impl WatchedBody {
    pub fn new(body: Body, watch: Arc<Watch>) -> WatchedBody {
        WatchedBody {
            body,
            rest: Bytes::new(),
            watch,
        }
    }
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES_MAX);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, to_come) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = to_come.upper() {
            hint.set_upper(rest + upper);
        }
        hint.set_lower(rest + to_come.lower());
        hint
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        self.watch.answer_ends();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    struct Counted {
        bytes: Vec<u8>,
        _held: Arc<()>,
    }

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    #[tokio::test]
    async fn a_long_answer_is_handed_on_in_pieces_and_held_until_the_last() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(2 * PIECE_BYTES_MAX + 10).collect();
        let held = Arc::new(());
        let answer = Bytes::from_owner(Counted {
            bytes: bytes.clone(),
            _held: held.clone(),
        });
        let mut body = WatchedBody::new(answer.into(), Arc::new(Watch::new(Limits::new(1))));
        let mut sent = Vec::new();
        for left in [2 * PIECE_BYTES_MAX + 10, PIECE_BYTES_MAX + 10, 10] {
            assert_eq!(body.size_hint().exact(), Some(left as u64));
            assert!(!body.is_end_stream());
            assert_eq!(Arc::strong_count(&held), 2, "given up before it was handed on");
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(piece.len(), left.min(PIECE_BYTES_MAX));
            sent.extend_from_slice(&piece);
        }
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.is_end_stream());
        assert_eq!(Arc::strong_count(&held), 1, "kept although all is handed on");
        assert!(body.frame().await.is_none());
        assert_eq!(sent, bytes);
    }
}
