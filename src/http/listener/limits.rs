//! What a client may take of the server: how many connections there are, and how long each stage of one may last.

use std::time::Duration;

/// What a client may take of the server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once; above it the longest idle stranger gives way, or the newcomer is refused with a 503.
    pub connections_max: usize,
    /// Connections above the limit that are answered by probes and numbers alone.
    pub kept_max: usize,
    /// Refusals under way at once that read nothing; above it connections are dropped without a word.
    pub refusals_max: usize,
    /// From connecting to the first byte.
    pub first_byte: Duration,
    /// From the first byte of a request's head to the last.
    pub head: Duration,
    /// From the end of an answer to the first byte of the next request.
    pub idle: Duration,
    /// Without the client taking a byte of its answer.
    pub write_stall: Duration,
    /// The same for an event stream once the server drains: its client can come back with its last id, and is no reason
    /// to keep a server from stopping.
    pub draining_stream_stall: Duration,
    /// For a client that is answered while it still sends: to read the answer before the connection ends. As long as the
    /// longest body may take.
    pub linger: Duration,
    /// The same where nothing should be on its way any more.
    pub short_linger: Duration,
}

impl Limits {
    /// An honest client on a bad line stays far below the times. Load balancers commonly keep an idle connection
    /// for 60 seconds and must be the first to close it, so ours is longer.
    pub fn new(connections_max: usize) -> Limits {
        Limits {
            connections_max,
            kept_max: 16,
            refusals_max: 64,
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write_stall: Duration::from_secs(30),
            draining_stream_stall: Duration::from_secs(2),
            linger: Duration::from_secs(30),
            short_linger: Duration::from_secs(1),
        }
    }

    /// For the places that are kept: nobody holds one for long.
    pub(super) fn of_kept_places(self) -> Limits {
        Limits {
            first_byte: Duration::from_secs(2),
            head: Duration::from_secs(2),
            linger: self.short_linger,
            ..self
        }
    }
}
