//! File descriptors: every connection is one, and many systems allow a process fewer than it may ask for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for all but client connections: the database, the log, calls to the service, refusals under way.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard one, and answers how many client connections fit below it, at most
/// `connections_max`; fewer are told in the log.
pub fn connections(connections_max: usize) -> usize {
    let connections = connections_below(raised(), connections_max);
    if connections < connections_max {
        tracing::warn!(
            connections,
            "ORDERLY_MAX_CONNECTIONS is {connections_max}, but the system allows this process too few open files: \
             {connections} connections are taken; raise the limit (ulimit -Hn, LimitNOFILE= of systemd)"
        );
    }
    connections
}

/// The limit that holds from now on; `None` when there is none.
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
            tracing::warn!(%error, "cannot raise the limit of open files");
            current
        }
    }
}

/// Half of a small limit is left to the others.
fn connections_below(files_max: Option<u64>, connections_max: usize) -> usize {
    let Some(files_max) = files_max else {
        return connections_max;
    };
    let connections = files_max - OTHERS.min(files_max / 2);
    connections_max
        .min(usize::try_from(connections).unwrap_or(usize::MAX))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(connections_below(None, 4_096), 4_096);
        assert_eq!(connections_below(Some(1_048_576), 4_096), 4_096);
        assert_eq!(connections_below(Some(1_024), 4_096), 768);
        assert_eq!(connections_below(Some(48), 4_096), 24);
        assert_eq!(connections_below(Some(1), 4_096), 1);
        assert_eq!(connections_below(Some(0), 4_096), 1);
    }
}
