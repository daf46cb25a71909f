//! Limits on a client's use of the server: the number of connections, and the time for each stage of a connection.

use std::time::Duration;

use super::admission::{GRACE_IN_RESERVED_PLACES, WAITING_MAX};

const RESERVED_MAX: usize = 16;
const REFUSALS_MAX: usize = 64;
/// Longer than the pauses of a healthy transfer: its socket blocks most of the time, and a lost packet is sent again
/// within about a second.
const STALL_BEFORE_EVICTION: Duration = Duration::from_secs(2);
/// Maximum connections beyond `connections_max`: those in reserved places, those being refused, and those that wait for
/// an ordinary or a reserved place.
pub const CONNECTIONS_ABOVE_THE_LIMIT: usize = RESERVED_MAX + REFUSALS_MAX + 2 * WAITING_MAX;

/// Limits on a client's use of the server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum open connections; beyond that the longest idle unverified one is evicted, or the new one gets a 503.
    pub connections_max: usize,
    /// Maximum connections above the limit that get probes and metrics alone.
    pub reserved_max: usize,
    /// Maximum refusals at once that read nothing; beyond that connections are dropped without an answer.
    pub refusals_max: usize,
    /// Maximum time from connecting to the first byte.
    pub first_byte: Duration,
    /// Maximum time from the first byte of a request's head to the last.
    pub head: Duration,
    /// Maximum time from the end of an answer to the first byte of the next request.
    pub idle: Duration,
    /// Maximum time in which the client takes no byte of its answer.
    pub write_stall: Duration,
    /// Minimum stall after which a request or an answer in progress is evicted for a new connection.
    pub eviction_stall: Duration,
    /// `write_stall` of an event stream once the server drains. Its client can resume with its last id and must not
    /// delay a stop.
    pub draining_stream_stall: Duration,
    /// Maximum time for a client to read an answer that began while it was still sending. The longest body may take
    /// this time.
    pub linger: Duration,
    /// `linger` once the server drains.
    pub draining_linger: Duration,
    /// `linger` when nothing more should arrive.
    pub short_linger: Duration,
}

impl Limits {
    /// Returns the limits of ordinary places. Honest clients on poor lines stay far below the times. Load balancers
    /// usually keep an idle connection for 60 seconds and must be the first to close it, so `idle` is longer.
    pub fn new(connections_max: usize) -> Limits {
        Limits {
            connections_max,
            reserved_max: RESERVED_MAX,
            refusals_max: REFUSALS_MAX,
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write_stall: Duration::from_secs(30),
            eviction_stall: STALL_BEFORE_EVICTION,
            draining_stream_stall: Duration::from_secs(2),
            linger: Duration::from_secs(30),
            draining_linger: Duration::from_secs(5),
            short_linger: Duration::from_secs(1),
        }
    }

    /// Returns the limits of reserved places, which no client holds for long.
    pub(super) fn of_reserved_places(self) -> Limits {
        Limits {
            first_byte: Duration::from_secs(2),
            head: Duration::from_secs(2),
            eviction_stall: GRACE_IN_RESERVED_PLACES,
            linger: self.short_linger,
            ..self
        }
    }
}
