//! Bodies that report their progress: a request body its end, an answer body when it is over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};

use super::watch::Watch;

/// Body of a request.
pub struct ReadBody {
    body: Incoming,
    watch: Arc<Watch>,
}

impl ReadBody {
    pub fn new(body: Incoming, watch: Arc<Watch>) -> ReadBody {
        ReadBody { body, watch }
    }
}

impl HttpBody for ReadBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            self.watch.body_ends();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Maximum bytes of an answer passed on at once. hyper copies a piece behind the head if it is not too large, so only a
/// small part of a long answer is in memory twice; the rest stays with the body that counts its memory.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// Body of an answer in pieces. Reports when it is over, sent or abandoned.
pub struct WatchedBody {
    body: Body,
    /// Bytes received from the body and not yet passed on.
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
    use crate::http::listener::Limits;

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
    async fn a_long_answer_is_passed_on_in_pieces_and_held_until_the_last() {
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
            assert_eq!(Arc::strong_count(&held), 2, "released before the last piece");
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(piece.len(), left.min(PIECE_BYTES_MAX));
            sent.extend_from_slice(&piece);
        }
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.is_end_stream());
        assert_eq!(Arc::strong_count(&held), 1, "kept after the last piece");
        assert!(body.frame().await.is_none());
        assert_eq!(sent, bytes);
    }
}
