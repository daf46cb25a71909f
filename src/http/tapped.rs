//! A stream with a tap on it, which sees what passes and when nothing does. What that means is left to the tap.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Direction of a stream, as its reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Read,
    Write,
}

pub trait Tap {
    /// Called after each attempt to move bytes: `blocked` when the other side let none pass.
    fn blocked(&mut self, _way: Way, _blocked: bool) {}

    /// Called with bytes that arrived, none of them at the end of the stream. Unless it answers with `Ok`, the reader does not
    /// see them.
    fn arrived(&mut self, bytes: &[u8], context: &Context<'_>) -> Poll<io::Result<()>>;
}

pub struct Tapped<S, T> {
    stream: S,
    tap: T,
}

impl<S, T> Tapped<S, T> {
    pub fn new(stream: S, tap: T) -> Tapped<S, T> {
        Tapped { stream, tap }
    }

    pub fn tap(&self) -> &T {
        &self.tap
    }

    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S, T: Tap> Tapped<S, T> {
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.tap.blocked(Way::Write, written.is_pending());
        written
    }
}

impl<S: AsyncRead + Unpin, T: Tap + Unpin> AsyncRead for Tapped<S, T> {
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
        self.tap.blocked(Way::Read, read.is_pending());
        ready!(read)?;
        let arrived = self.tap.arrived(&buffer.filled()[before..], context);
        if !matches!(arrived, Poll::Ready(Ok(()))) {
            buffer.set_filled(before);
        }
        arrived
    }
}

impl<S: AsyncWrite + Unpin, T: Tap + Unpin> AsyncWrite for Tapped<S, T> {
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
