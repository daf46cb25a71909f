//! A stream that reports its traffic to an observer: bytes that arrive, and times when none move.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Direction of a stream, from its reader's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
}

pub trait StreamObserver {
    /// Called after each attempt to move bytes; `blocked` is true if the other side let none pass.
    fn blocked(&mut self, _direction: Direction, _blocked: bool) {}

    /// Called with the bytes that arrived, none at the end of the stream. Unless it returns `Ok`, the reader does not
    /// see them.
    fn arrived(&mut self, bytes: &[u8], context: &Context<'_>) -> Poll<io::Result<()>>;
}

pub struct ObservedStream<S, T> {
    stream: S,
    observer: T,
}

impl<S, T> ObservedStream<S, T> {
    pub fn new(stream: S, observer: T) -> ObservedStream<S, T> {
        ObservedStream { stream, observer }
    }

    pub fn observer(&self) -> &T {
        &self.observer
    }

    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S, T: StreamObserver> ObservedStream<S, T> {
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.observer.blocked(Direction::Write, written.is_pending());
        written
    }
}

impl<S: AsyncRead + Unpin, T: StreamObserver + Unpin> AsyncRead for ObservedStream<S, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.observer.blocked(Direction::Read, read.is_pending());
        ready!(read)?;
        let arrived = self.observer.arrived(&buffer.filled()[before..], context);
        if !matches!(arrived, Poll::Ready(Ok(()))) {
            buffer.set_filled(before);
        }
        arrived
    }
}

impl<S: AsyncWrite + Unpin, T: StreamObserver + Unpin> AsyncWrite for ObservedStream<S, T> {
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
