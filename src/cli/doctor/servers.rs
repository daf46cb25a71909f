//! Checks where the URLs lead: which of several hosts takes writes, whether the direct URL reaches the same server and the
//! URL for reads a standby, and whether the pooler's version is safe.

use super::Check;
use crate::config::{Database, PostgresDatabase, Session};
use crate::store::open;
use crate::store::survey::{Beside, Host, Role};

/// The first `PgBouncer` that survives a client leaving right after it asked to cancel a statement (its issue 801).
const PGBOUNCER_MIN: (u32, u32) = (1, 19);

pub(super) async fn check(database: &Database) -> Vec<Check> {
    let Database::Postgres(database) = database else {
        return Vec::new();
    };
    let survey = open::survey(database).await;
    let hosts = judge_hosts(&survey.hosts, database);
    let direct = survey.direct.as_ref().map(judge_direct);
    let pgbouncer = survey.pgbouncer.as_deref().map(judge_pgbouncer);
    let read = survey.read.as_ref().map(judge_read);
    let checks = hosts.into_iter().chain(direct).chain(read);
    checks.chain(pgbouncer).collect()
}

/// Returns `None` for a single host; other checks cover it.
fn judge_hosts(hosts: &[Host], database: &PostgresDatabase) -> Option<Check> {
    const NAME: &str = "hosts";
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
        Check::fail(
            NAME,
            finding,
            "no host takes writes: start the primary, name it in DATABASE_URL, or wait for the failover (`patronictl list`)",
        )
    } else if primaries.len() > 1 {
        Check::fail(
            NAME,
            finding,
            "more than one primary: name the servers of one cluster in DATABASE_URL",
        )
    } else if first.role == Role::OnlyReads && database.url.session == Some(Session::Any) {
        Check::fail(
            NAME,
            finding,
            "nodes use the first host, which stores nothing: set target_session_attrs=read-write, or leave it out",
        )
    } else if !unknown.is_empty() {
        Check::warn(
            NAME,
            finding,
            "nodes go on with the other hosts; a failover to this one would be an outage",
        )
    } else {
        Check::ok(NAME, finding)
    };
    Some(check)
}

fn judge_direct(direct: &Beside) -> Check {
    const NAME: &str = "direct way";
    match direct {
        Beside::Same => Check::ok(NAME, "DATABASE_DIRECT_URL leads to the server of DATABASE_URL"),
        Beside::SameCluster => Check::fail(
            NAME,
            "DATABASE_DIRECT_URL leads to another server of the cluster: notifications do not arrive, migrations fail",
            "point it at the primary, also after a failover: through HAProxy, or with all hosts and \
             target_session_attrs=read-write",
        ),
        Beside::Other => Check::fail(
            NAME,
            "DATABASE_DIRECT_URL leads to another server or another database than DATABASE_URL",
            "name the same database in both",
        ),
        Beside::Unknown(reason) => Check::fail(
            NAME,
            format!("DATABASE_DIRECT_URL leads to no server: {reason}"),
            "correct it: without it notifications do not arrive and migrations fail",
        ),
    }
}

fn judge_read(read: &Beside) -> Check {
    const NAME: &str = "read way";
    const FROM_PRIMARY: &str = "lists and feed pages come from the primary until it leads to a standby of it";
    match read {
        Beside::SameCluster => Check::ok(NAME, "DATABASE_READ_URL leads to another server of the cluster"),
        Beside::Same => Check::warn(
            NAME,
            "DATABASE_READ_URL leads to the server of DATABASE_URL, which is spared nothing",
            "name a standby, or take it out",
        ),
        Beside::Other => Check::fail(
            NAME,
            "DATABASE_READ_URL leads to a server of another cluster, or to another database",
            FROM_PRIMARY,
        ),
        Beside::Unknown(reason) => Check::warn(
            NAME,
            format!("DATABASE_READ_URL leads to no server: {reason}"),
            FROM_PRIMARY,
        ),
    }
}

fn judge_pgbouncer(version: &str) -> Check {
    const NAME: &str = "pooler";
    let finding = format!("PgBouncer {version}");
    if is_older(version, PGBOUNCER_MIN) {
        Check::warn(
            NAME,
            finding,
            "use 1.19 or newer: older versions can crash when a client cancels a statement, which stops all nodes",
        )
    } else {
        Check::ok(NAME, finding)
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
