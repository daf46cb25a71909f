//! Charges a client for the bytes it sends. Frames that make up no message - empty fragments above all - cost work as
//! well, and only here are they seen.

use std::io;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::allowance::Allowance;
use crate::http::tapped::Tap;

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

    /// The client sent more than it may; every read fails from then on.
    pub fn is_overdrawn(&self) -> bool {
        self.overdrawn
    }
}

impl Tap for Meter {
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
