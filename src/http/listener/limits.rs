//! Limits on a client's use of the server: the number of connections, and the time for each stage of a connection.

use std::time::Duration;

use super::crowd::{GRACE_IN_KEPT_PLACES, WAITING_MAX};

const KEPT_MAX: usize = 16;
const REFUSALS_MAX: usize = 64;
/// Longer than the pauses of a healthy transfer: its socket blocks at most instants, and a lost packet is sent again within
/// about a second.
const STALL_BEFORE_GIVING_WAY: Duration = Duration::from_secs(2);
/// Connections open at once beyond `connections_max`: those answered in kept places, those being refused, and those that wait
/// for an ordinary or a kept place.
pub const CONNECTIONS_ABOVE_THE_LIMIT: usize = KEPT_MAX + REFUSALS_MAX + 2 * WAITING_MAX;

/// Limits on a client's use of the server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once; above it the longest idle stranger gives way, or the newcomer is refused with a 503.
    pub connections_max: usize,
    /// Connections above the limit that are answered by probes and numbers alone.
    pub kept_max: usize,
    /// Refusals under way at once that read nothing; above it connections are dropped without a word.
    pub refusals_max: usize,
    /// Longest time from connecting to the first byte.
    pub first_byte: Duration,
    /// Longest time from the first byte of a request's head to the last.
    pub head: Duration,
    /// Longest time from the end of an answer to the first byte of the next request.
    pub idle: Duration,
    /// Longest time without the client taking a byte of its answer.
    pub write_stall: Duration,
    /// Shortest time without a byte after which a request or an answer under way gives way to a newcomer.
    pub give_way_stall: Duration,
    /// `write_stall` for an event stream once the server drains. Its client can come back with its last id, and is no
    /// reason to keep a server from stopping.
    pub draining_stream_stall: Duration,
    /// Longest time for a client to read an answer that began while the client still sends, before the connection ends.
    /// The longest body may take this time.
    pub linger: Duration,
    /// `linger` once the server drains.
    pub draining_linger: Duration,
    /// `linger` where nothing should be on its way any more.
    pub short_linger: Duration,
}

impl Limits {
    /// An honest client on a bad line stays far below the times. Load balancers commonly keep an idle connection
    /// for 60 seconds and must be the first to close it, so ours is longer.
    pub fn new(connections_max: usize) -> Limits {
        Limits {
            connections_max,
            kept_max: KEPT_MAX,
            refusals_max: REFUSALS_MAX,
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write_stall: Duration::from_secs(30),
            give_way_stall: STALL_BEFORE_GIVING_WAY,
            draining_stream_stall: Duration::from_secs(2),
            linger: Duration::from_secs(30),
            draining_linger: Duration::from_secs(5),
            short_linger: Duration::from_secs(1),
        }
    }

    /// Limits for the kept places: no client holds one for long.
    pub(super) fn of_kept_places(self) -> Limits {
        Limits {
            first_byte: Duration::from_secs(2),
            head: Duration::from_secs(2),
            give_way_stall: GRACE_IN_KEPT_PLACES,
            linger: self.short_linger,
            ..self
        }
    }
}
