//! Charges a client for the bytes it sends. Frames that make up no message - empty fragments above all - reach nobody who
//! could count them, and each costs work.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::allowance::Allowance;

pub struct Metered<S> {
    stream: S,
    allowance: Allowance,
    overdrawn: bool,
}

impl<S> Metered<S> {
    pub fn new(stream: S, allowance: Allowance) -> Metered<S> {
        Metered {
            stream,
            allowance,
            overdrawn: false,
        }
    }

    /// The client sent more than it may; every read fails from then on.
    pub fn is_overdrawn(&self) -> bool {
        self.overdrawn
    }

    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let count = u32::try_from(buffer.filled().len() - before).unwrap_or(u32::MAX);
        if self.overdrawn || !self.allowance.take(count, Instant::now()) {
            self.overdrawn = true;
            buffer.set_filled(before);
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
