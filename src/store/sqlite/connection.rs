//! Opens connections to the database file and proves that they keep what they store.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::files::{beside, folder_of, location, require_file, sync_folder, unavailable};
use crate::store::opening::OpenError;

/// The first version without the WAL-reset bug, which could corrupt a file (sqlite.org/wal.html#walresetbug).
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// How long a statement waits for another process that holds the write lock, such as a backup or a shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Distinct statements kept prepared per connection: more than there are.
const STATEMENTS_MAX: usize = 64;
/// Page cache of the writer and of each reader, in KiB.
const WRITER_CACHE_KIB: u32 = 16 * 1024;
const READER_CACHE_KIB: u32 = 2 * 1024;
/// The WAL file is cut back to this when it is begun anew: longer than it mostly gets while it is copied, so that the file is
/// not cut and extended again each time.
const WAL_FILE_BYTES_MAX: u32 = 80 * 1024 * 1024;

/// The one connection that writes. Creates the file where there is none.
pub(super) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let connection = open(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    )
    .and_then(|connection| {
        set_up(&connection, WRITER_CACHE_KIB)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        // See `checkpoints`.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_size_limit", WAL_FILE_BYTES_MAX)?;
        Ok(connection)
    })
    .map_err(|error| unavailable(path, error.into()))?;
    check_durable(path, &connection)?;
    // SQLite ignores a failed sync of the folder when it creates a file; a new file must survive a power cut.
    fs::canonicalize(path)
        .with_context(|| format!("resolve {}", path.display()))
        .and_then(|real| sync_folder(&folder_of(&real)))
        .map_err(|source| unavailable(path, source))?;
    Ok(connection)
}

/// A connection that only reads, beside a writer of this or another process.
pub(super) fn open_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    // Not opened read-only: a reader of a WAL database writes its place into the shared index.
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    set_up(&connection, READER_CACHE_KIB)?;
    connection.pragma_update(None, "query_only", true)?;
    // The last connection to close would checkpoint: the writer's business.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// A connection to a file that no process can change as long as it is open: no lock is taken and no log looked for.
fn open_unchanging(real_path: &Path) -> Result<Connection, rusqlite::Error> {
    let uri = format!("file:{}?immutable=1", escaped(real_path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = open(Path::new(&uri), flags)?;
    set_up(&connection, READER_CACHE_KIB)?;
    Ok(connection)
}

/// Escapes a path as a URI takes it (sqlite.org/uri.html).
fn escaped(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes().iter();
    let escaped = bytes.map(|&byte| match byte {
        b'/' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
}

/// Opens a file to read it, also one that cannot be written.
pub(super) fn open_existing(path: &Path) -> Result<Connection, OpenError> {
    require_file(path)?;
    let failed = |error: rusqlite::Error| unavailable(path, error.into());
    let opened = open_reader(path).and_then(|connection| {
        connection.execute_batch("select 1 from sqlite_schema limit 1")?;
        Ok(connection)
    });
    match opened {
        Err(error) if is_for_want_of_a_log(&error) => open_without_log(path, &error),
        opened => opened.map_err(failed),
    }
}

/// A reader makes the log and its index where they are missing, which it cannot where nothing can be written.
fn is_for_want_of_a_log(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// No log: everything is in the file, and no server has it open, since each keeps its log until it ends.
fn open_without_log(path: &Path, error: &rusqlite::Error) -> Result<Connection, OpenError> {
    let real_path = fs::canonicalize(path)
        .with_context(|| format!("resolve {}", path.display()))
        .map_err(|source| unavailable(path, source))?;
    let [wal, _] = beside(&real_path);
    let has_log = fs::metadata(&wal).is_ok_and(|metadata| metadata.len() > 0);
    if has_log {
        let problem = anyhow::anyhow!(
            "{error}: orders may be in {} alone, whose index cannot be made in a folder that cannot be written: copy \
             the files of the store to one that can",
            wal.display()
        );
        return Err(unavailable(path, problem));
    }
    open_unchanging(&real_path).map_err(|error| unavailable(path, error.into()))
}

/// A connection that only copies the log into the database, which it may have to sync.
pub(super) fn open_copier(path: &Path) -> Result<Connection, OpenError> {
    let connection = open_reader(path)
        .and_then(|connection| {
            connection.pragma_update(None, "synchronous", "full")?;
            Ok(connection)
        })
        .map_err(|error| unavailable(path, error.into()))?;
    check_durable(path, &connection)?;
    Ok(connection)
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
    Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn set_up(connection: &Connection, cache_kib: u32) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    connection.pragma_update(None, "temp_store", "memory")?;
    // Plans follow from the statement alone; without this, binding a value can have a statement compiled again.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "trusted_schema", false)
}

/// Reads back, in statements of their own, what a commit must have to survive a power cut.
fn check_durable(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let not_durable = |setting: String| OpenError::NotDurable {
        location: location(path),
        setting,
    };
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        return Err(not_durable(format!(
            "SQLite {} is linked in, 3.51.3 or newer is needed",
            rusqlite::version()
        )));
    }
    let read = |pragma: &str| -> Result<String, OpenError> {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|value| match value {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            })
            .map_err(|error| unavailable(path, error.into()))
    };
    // 2 is FULL (sqlite.org/pragma.html#pragma_synchronous).
    for (pragma, needed) in [("journal_mode", "wal"), ("synchronous", "2")] {
        let found = read(pragma)?;
        if found != needed {
            return Err(not_durable(format!("{pragma} is {found}, {needed} is needed")));
        }
    }
    Ok(())
}

/// The way out where the file or its folder cannot be written.
const MAKE_WRITABLE: &str = "a server must be able to write the file and its folder: mount it writable, or give this user the \
                             right to write; `orderly verify` and `orderly doctor` read it as it is";

/// Adds the remedy to an error of opening a file that cannot be written.
pub(super) fn with_remedy(error: OpenError) -> OpenError {
    match error {
        OpenError::Unavailable { location, source } if source.chain().any(tells_of_no_write) => {
            OpenError::Unavailable {
                location,
                source: source.context(MAKE_WRITABLE),
            }
        }
        other => other,
    }
}

fn tells_of_no_write(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return matches!(
            error.kind(),
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
        );
    }
    let code = error
        .downcast_ref::<rusqlite::Error>()
        .and_then(rusqlite::Error::sqlite_error_code);
    matches!(
        code,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weaker_setting_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let connection = open_writer(&path).unwrap();
        check_durable(&path, &connection).unwrap();
        connection.pragma_update(None, "synchronous", "normal").unwrap();
        let refusal = check_durable(&path, &connection).unwrap_err();
        assert!(matches!(refusal, OpenError::NotDurable { .. }), "{refusal}");
        connection.pragma_update(None, "synchronous", "full").unwrap();
        connection.pragma_update(None, "journal_mode", "delete").unwrap();
        assert!(matches!(
            check_durable(&path, &connection),
            Err(OpenError::NotDurable { .. })
        ));
    }
}
