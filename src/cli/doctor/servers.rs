//! Checks where the URLs lead: which of several hosts takes writes, whether the direct URL reaches the same server and the
//! URL for reads a standby, and whether the pooler's version is safe.

use super::Finding;
use crate::config::{PostgresDatabase, Session};
use crate::store::survey::{Host, Role, ServerRelation};

/// The first `PgBouncer` that survives a client leaving right after it asked to cancel a statement (its issue 801).
const PGBOUNCER_MIN: (u32, u32) = (1, 19);

/// Returns `None` for a single host; other checks cover it.
pub(super) fn judge_hosts(hosts: &[Host], database: &PostgresDatabase) -> Option<Finding> {
    let first = hosts.first()?;
    let of_role = |role: &Role| {
        let names = hosts.iter().filter(|host| host.role == *role);
        names.map(|host| host.name.as_str()).collect::<Vec<_>>()
    };
    let (primaries, standbys) = (of_role(&Role::TakesWrites), of_role(&Role::OnlyReads));
    let unknown: Vec<String> = hosts
        .iter()
        .filter_map(|host| match &host.role {
            Role::Unknown(reason) => Some(format!("{}: {reason}", host.name)),
            Role::TakesWrites | Role::OnlyReads => None,
        })
        .collect();
    let mut parts = Vec::new();
    if !primaries.is_empty() {
        parts.push(format!("takes writes: {}", primaries.join(", ")));
    }
    if !standbys.is_empty() {
        parts.push(format!("only read: {}", standbys.join(", ")));
    }
    parts.extend(unknown.iter().cloned());
    let finding = parts.join("; ");
    let check = if primaries.is_empty() {
        Finding::fail(
            finding,
            "no host takes writes: start the primary, name it in DATABASE_URL, or wait for the failover (`patronictl list`)",
        )
    } else if primaries.len() > 1 {
        Finding::fail(
            finding,
            "more than one primary: name the servers of one cluster in DATABASE_URL",
        )
    } else if first.role == Role::OnlyReads && database.url.session == Some(Session::Any) {
        Finding::fail(
            finding,
            "nodes use the first host, which stores nothing: set target_session_attrs=read-write, or leave it out",
        )
    } else if !unknown.is_empty() {
        Finding::warn(
            finding,
            "nodes go on with the other hosts; a failover to this one would be an outage",
        )
    } else {
        Finding::ok(finding)
    };
    Some(check)
}

pub(super) fn judge_direct(direct: &ServerRelation) -> Finding {
    match direct {
        ServerRelation::Same => Finding::ok("DATABASE_DIRECT_URL leads to the server of DATABASE_URL"),
        ServerRelation::SameCluster => Finding::fail(
            "DATABASE_DIRECT_URL leads to another server of the cluster: notifications do not arrive, migrations fail",
            "point it at the primary, also after a failover: through HAProxy, or with all hosts and \
             target_session_attrs=read-write",
        ),
        ServerRelation::Other => Finding::fail(
            "DATABASE_DIRECT_URL leads to another server or another database than DATABASE_URL",
            "name the same database in both",
        ),
        ServerRelation::Unknown(reason) => Finding::fail(
            format!("DATABASE_DIRECT_URL leads to no server: {reason}"),
            "correct it: without it notifications do not arrive and migrations fail",
        ),
    }
}

pub(super) fn judge_read(read: &ServerRelation) -> Finding {
    const FROM_PRIMARY: &str = "lists and feed pages come from the primary until it leads to a standby of it";
    match read {
        ServerRelation::SameCluster => {
            Finding::ok("DATABASE_READ_URL leads to another server of the cluster")
        }
        ServerRelation::Same => Finding::warn(
            "DATABASE_READ_URL leads to the server of DATABASE_URL, which is spared nothing",
            "name a standby, or take it out",
        ),
        ServerRelation::Other => Finding::fail(
            "DATABASE_READ_URL leads to a server of another cluster, or to another database",
            FROM_PRIMARY,
        ),
        ServerRelation::Unknown(reason) => Finding::warn(
            format!("DATABASE_READ_URL leads to no server: {reason}"),
            FROM_PRIMARY,
        ),
    }
}

pub(super) fn judge_pgbouncer(version: &str) -> Finding {
    let finding = format!("PgBouncer {version}");
    if is_older(version, PGBOUNCER_MIN) {
        Finding::warn(
            finding,
            "use 1.19 or newer: older versions can crash when a client cancels a statement, which stops all nodes",
        )
    } else {
        Finding::ok(finding)
    }
}

/// Compares versions; an unreadable version counts as new.
fn is_older(version: &str, than: (u32, u32)) -> bool {
    let mut numbers = version.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_pgbouncer_before_1_19_is_a_warning() {
        for (version, state) in [
            ("1.18.0", State::Warn),
            ("1.9.0", State::Warn),
            ("1.19.0", State::Ok),
            ("1.24.1", State::Ok),
            ("2.0.0", State::Ok),
            ("new", State::Ok),
        ] {
            assert_eq!(judge_pgbouncer(version).state, state, "{version}");
        }
    }
}
