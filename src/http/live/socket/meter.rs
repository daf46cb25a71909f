//! Charges a client for the bytes it sends. Frames that form no message, above all empty fragments, cost work as well
//! and are only visible here.

use std::io;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::allowance::Allowance;
use crate::http::observed_stream::StreamObserver;

pub struct Meter {
    allowance: Allowance,
    overdrawn: bool,
}

impl Meter {
    pub fn new(allowance: Allowance) -> Meter {
        Meter {
            allowance,
            overdrawn: false,
        }
    }

    /// Reports whether the client sent more than allowed; every read fails from then on.
    pub fn is_overdrawn(&self) -> bool {
        self.overdrawn
    }
}

impl StreamObserver for Meter {
    fn arrived(&mut self, bytes: &[u8], _: &Context<'_>) -> Poll<io::Result<()>> {
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.overdrawn |= !self.allowance.take(count, Instant::now());
        Poll::Ready(if self.overdrawn {
            Err(io::ErrorKind::QuotaExceeded.into())
        } else {
            Ok(())
        })
    }
}
