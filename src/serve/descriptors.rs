//! File descriptors: every connection takes one, and many systems set a low default limit.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::http::listener::CONNECTIONS_ABOVE_THE_LIMIT;

/// Descriptors of the store, the log, the listening sockets and the program itself: about 30 for the store, and a few
/// briefly for name lookups.
const OF_THE_PROGRAM: usize = 96;

/// Raises the soft limit to the hard one. Returns the number of client connections that fit beside everything else, at
/// most `connections_max`, and warns if they are fewer. `calls_max` is the maximum number of concurrent calls to the
/// service.
pub fn connections(connections_max: usize, calls_max: u32) -> usize {
    let connections = connections_below(raised(), connections_max, calls_max);
    if connections < connections_max {
        tracing::warn!(
            connections,
            "ORDERLY_MAX_CONNECTIONS is {connections_max}, but the system allows this process too few open files: \
             {connections} connections are accepted; raise the limit (ulimit -Hn, LimitNOFILE= of systemd)"
        );
    }
    connections
}

/// Returns the limit now in force; `None` for no limit.
fn raised() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files; raise it from outside (ulimit -Hn, LimitNOFILE= of systemd)");
            current
        }
    }
}

/// Returns the number of client connections; at least half of a small limit.
fn connections_below(files_max: Option<u64>, connections_max: usize, calls_max: u32) -> usize {
    let Some(files_max) = files_max else {
        return connections_max;
    };
    let others = (OF_THE_PROGRAM + CONNECTIONS_ABOVE_THE_LIMIT) as u64 + u64::from(calls_max);
    let connections = files_max - others.min(files_max / 2);
    connections_max
        .min(usize::try_from(connections).unwrap_or(usize::MAX))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Issue 13: only 256 descriptors were reserved, and a node with 100 concurrent calls to its service may need more.
    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        const CALLS_MAX: u32 = 100;
        let others = OF_THE_PROGRAM + CONNECTIONS_ABOVE_THE_LIMIT + CALLS_MAX as usize;
        let below = |files_max| connections_below(files_max, 4_096, CALLS_MAX);
        assert_eq!(below(None), 4_096);
        assert_eq!(below(Some(1_048_576)), 4_096);
        assert_eq!(below(Some(1_024)) + others, 1_024);
        assert_eq!(below(Some(48)), 24);
        assert_eq!(below(Some(1)), 1);
        assert_eq!(below(Some(0)), 1);
    }
}
