//! Checks that the synchronous standby confirms commits.

use super::Finding;
use crate::store::snapshot::Standbys;

const ADVICE: &str = "bring the standby back, or check the replication (pg_stat_replication, the standby's own log); to run \
                      without one, empty synchronous_standby_names: a failover may then lose confirmed orders";

pub(super) fn judge(standbys: Standbys) -> Finding {
    let waiting = match standbys.waiting {
        0 => None,
        1 => Some("1 session waits".to_owned()),
        some => Some(format!("{some} sessions wait")),
    };
    match (standbys.connected, waiting) {
        (true, None) => Finding::ok("commits wait for the synchronous standby, which confirms them"),
        (true, Some(waiting)) => {
            let finding = format!(
                "{waiting} for the synchronous standby (wait_event SyncRep): it is connected but confirms nothing"
            );
            Finding::fail(finding, ADVICE)
        }
        (false, waiting) => {
            let waiting =
                waiting.map_or_else(String::new, |waiting| format!("; {waiting} (wait_event SyncRep)"));
            let finding = format!(
                "nothing can be stored: commits wait for a synchronous standby but none is connected{waiting}"
            );
            Finding::fail(finding, ADVICE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_standby_that_confirms_nothing_is_a_failure() {
        for (connected, waiting, state, part) in [
            (true, 0, State::Ok, "confirms them"),
            (true, 2, State::Fail, "2 sessions wait"),
            (false, 0, State::Fail, "none is connected"),
            (false, 1, State::Fail, "1 session waits"),
        ] {
            let check = judge(Standbys { connected, waiting });
            assert_eq!(check.state, state, "{}", check.text);
            assert!(check.text.contains(part), "{}", check.text);
        }
    }
}
