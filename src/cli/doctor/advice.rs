//! Advice on a store that does not open or answer, chosen by the text of its error. Each piece of advice names a step
//! that helps with that error.

use crate::config::Database;
use crate::store::open::is_out_of_connections;

/// Returns advice for the text of a store error.
pub(super) fn of(database: &Database, error: &str) -> &'static str {
    let known: &[(&str, &str)] = match database {
        Database::Sqlite(_) => &SQLITE,
        Database::Postgres(_) => {
            if is_out_of_connections(error) {
                return NO_CONNECTION_FREE;
            }
            if let Some(advice) = by_code(error) {
                return advice;
            }
            &POSTGRES
        }
    };
    let error = error.to_lowercase();
    let fits = known.iter().find(|(words, _)| error.contains(words));
    fits.map_or(
        match database {
            Database::Sqlite(_) => "check the path in DATABASE_URL, the disk and the permissions",
            Database::Postgres(_) => "check DATABASE_URL and the database's own log",
        },
        |(_, advice)| advice,
    )
}

const OTHER_PROGRAM: &str =
    "another program keeps its tables there: give orderly a database of its own in DATABASE_URL";
const NO_CONNECTION_FREE: &str = "no connection is free: see which sessions hold them (pg_stat_activity), or raise \
                                  max_connections or the limit of the role or the database";
const READ_ONLY: &str = "point DATABASE_URL at the primary: with several hosts in it, target_session_attrs=read-write finds \
                         it; behind HAProxy use the port whose check is /primary; or set default_transaction_read_only off";
const WHO_HOLDS_IT: &str =
    "another session holds a lock or is busy: find it in pg_stat_activity and pg_locks, and end it";
const HANGS: &str = "the address may be wrong or behind a firewall; if the port is open, the server hangs or the pooler has \
                     no server connection free (PgBouncer: SHOW POOLS)";

/// Returns advice by the SQLSTATE in the server's message (PostgreSQL manual, appendix A).
fn by_code(error: &str) -> Option<&'static str> {
    let advice = match sqlstate(error)? {
        "28P01" | "28000" => {
            "correct user or password: in DATABASE_URL, or if that has none, in PGPASSWORD or ~/.pgpass; running nodes \
             keep the old one until they restart"
        }
        "3D000" => {
            "correct its name in DATABASE_URL, or create the database (createdb) if this is a first start"
        }
        "42501" => {
            "give the role of DATABASE_URL that privilege: `grant create on database` for a first start, \
              `grant usage on schema orderly` and the privileges on its tables, or make it their owner"
        }
        "42P06" | "42P07" | "42710" | "42701" | "42723" => OTHER_PROGRAM,
        "53100" => "make room on the database's disk",
        "25006" => READ_ONLY,
        "57P03" => "the server is starting or stopping: check again in a minute",
        "55P03" | "57014" => WHO_HOLDS_IT,
        "08P01" if error.contains("startup parameter") => {
            "the pooler accepts no such setting: take `options` out of DATABASE_URL, or name it in ignore_startup_parameters of \
             PgBouncer"
        }
        _ => return None,
    };
    Some(advice)
}

/// Returns the five-character code in parentheses at the end of a server message.
fn sqlstate(error: &str) -> Option<&str> {
    let (_, rest) = error.rsplit_once('(')?;
    let (code, _) = rest.split_once(')')?;
    let is_code = code.len() == 5
        && code
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    is_code.then_some(code)
}

/// Lowercase parts of messages from the driver, the pooler and the system, with the advice.
const POSTGRES: [(&str, &str); 13] = [
    (
        "wants a password",
        "the password goes into DATABASE_URL, PGPASSWORD or ~/.pgpass",
    ),
    ("read-only", READ_ONLY),
    (
        "connection refused",
        "start PostgreSQL, or correct host and port in DATABASE_URL",
    ),
    (
        "no such file or directory",
        "no server listens on that socket: start PostgreSQL, or correct DATABASE_URL",
    ),
    (
        "failed to lookup address",
        "the name cannot be resolved here: correct the host in DATABASE_URL",
    ),
    ("not connected within", HANGS),
    ("no answer within", HANGS),
    (
        "does not support tls",
        "the server speaks no TLS: turn on ssl there, or take sslmode out of DATABASE_URL",
    ),
    (
        "certificate",
        "the server's certificate does not match: use a host name that it holds, or name its authority in sslrootcert",
    ),
    (
        "tls handshake",
        "check sslmode in DATABASE_URL: the server may not be PostgreSQL, or a proxy is in front of it",
    ),
    (
        "root certificates",
        "correct sslrootcert in DATABASE_URL: the file must hold certificates in PEM",
    ),
    (
        "default_transaction_isolation",
        "set by alter role or alter database",
    ),
    ("is needed, this is server_version_num", "upgrade PostgreSQL"),
];

const WRITABLE: &str = "mount the disk writable and give this user write permission";

const SQLITE: [(&str, &str); 10] = [
    (
        "no answer within",
        "another program may hold the file (a shell, a backup): end it; or the disk hangs",
    ),
    ("already exists", OTHER_PROGRAM),
    (
        "not a database",
        "the file is not a store: correct DATABASE_URL, or restore a backup",
    ),
    (
        "malformed",
        "stop the server, keep a copy of the files, restore a backup",
    ),
    (
        "locked",
        "another program holds the file (a shell, a backup): end it",
    ),
    (
        "permission denied",
        "make the folder and the files in it writable for this user",
    ),
    (
        "unable to open",
        "make the folder and the files in it readable and writable for this user",
    ),
    ("read-only", WRITABLE),
    // SQLite's own spelling.
    ("readonly", WRITABLE),
    ("no space left", "make room on the disk"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PasswordSources;

    fn advice(error: &str) -> &'static str {
        let url = "postgres://me:x@host/db";
        let (database, _) = Database::parse(url, &PasswordSources::default()).unwrap();
        of(&database, error)
    }

    #[test]
    fn advice_fits_the_error_of_the_server() {
        for (error, part) in [
            (
                "connect: password authentication failed for user \"x\" (28P01)",
                "PGPASSWORD",
            ),
            ("connect: database \"x\" does not exist (3D000)", "createdb"),
            (
                "connect: sorry, too many clients already (53300)",
                "max_connections",
            ),
            ("read: permission denied for table batches (42501)", "grant"),
            (
                "connect: relation \"orders\" already exists (42P07)",
                "a database of its own",
            ),
            (
                "connect: the server is read-only: a standby, or set so",
                "primary",
            ),
            (
                "connect: cannot execute INSERT in a read-only transaction (25006)",
                "primary",
            ),
            (
                "connect: no more connections allowed (max_client_conn) (08P01)",
                "no connection is free",
            ),
            ("connect: not connected within 10s", "SHOW POOLS"),
            (
                "read: canceling statement due to lock timeout (55P03)",
                "pg_locks",
            ),
            (
                "connect: unsupported startup parameter: options (08P01)",
                "ignore_startup_parameters",
            ),
            (
                "connect: error connecting to server: Connection refused (os error 111)",
                "start PostgreSQL",
            ),
            (
                "connect: invalid peer certificate: certificate not valid for name",
                "sslrootcert",
            ),
            ("connect: something new (XX000)", "the database's own log"),
        ] {
            assert!(advice(error).contains(part), "{error}: {}", advice(error));
        }
    }

    #[test]
    fn only_five_characters_in_parentheses_are_a_code() {
        assert_eq!(sqlstate("sorry (53300)"), Some("53300"));
        for error in ["refused (os error 111)", "none", "(12)", "a (b)"] {
            assert_eq!(sqlstate(error), None, "{error}");
        }
    }
}
