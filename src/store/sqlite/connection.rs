//! Opens connections to the database file and checks their durability settings.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::files::{folder_of, location, require_file, sync_folder, unavailable, wal_and_shm};
use crate::store::opening::OpenError;

/// The first version without the WAL-reset bug, which could corrupt a file (sqlite.org/wal.html#walresetbug).
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// The longest wait of a statement for a write lock of another process, such as a backup or a shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept per connection: more than there are distinct ones.
const STATEMENTS_MAX: usize = 64;
/// Page cache of the writer and of each reader, in KiB.
const WRITER_CACHE_KIB: u32 = 16 * 1024;
const READER_CACHE_KIB: u32 = 2 * 1024;
/// Size to which SQLite truncates the WAL file when it restarts it. Longer than the WAL usually gets, so that the file is not
/// truncated and extended each time.
const WAL_FILE_BYTES_MAX: u32 = 80 * 1024 * 1024;

/// Opens the only connection that writes. Creates the file if it does not exist.
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
    // A new file must survive a power cut, and SQLite ignores a failed sync of the folder when it creates one.
    fs::canonicalize(path)
        .with_context(|| format!("resolve {}", path.display()))
        .and_then(|real| sync_folder(&folder_of(&real)))
        .map_err(|source| unavailable(path, source))?;
    Ok(connection)
}

/// Opens a connection that only reads. A writer of this or another process may be active.
pub(super) fn open_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    // Not opened read-only, because a reader of a WAL database writes its read mark into the shared index.
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    set_up(&connection, READER_CACHE_KIB)?;
    connection.pragma_update(None, "query_only", true)?;
    // Otherwise the last connection to close would run a checkpoint, which only the writer may do.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// Opens a file that no process can change while it is open. SQLite then takes no lock and looks for no WAL.
fn open_immutable(real_path: &Path) -> Result<Connection, rusqlite::Error> {
    let uri = format!("file:{}?immutable=1", escaped(real_path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = open(Path::new(&uri), flags)?;
    set_up(&connection, READER_CACHE_KIB)?;
    Ok(connection)
}

/// Escapes a path for a URI (sqlite.org/uri.html).
fn escaped(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes().iter();
    let escaped = bytes.map(|&byte| match byte {
        b'/' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
}

/// Opens an existing file for reading, even if it cannot be written.
pub(super) fn open_existing(path: &Path) -> Result<Connection, OpenError> {
    require_file(path)?;
    let failed = |error: rusqlite::Error| unavailable(path, error.into());
    let opened = open_reader(path).and_then(|connection| {
        connection.execute_batch("select 1 from sqlite_schema limit 1")?;
        Ok(connection)
    });
    match opened {
        Err(error) if may_lack_log(&error) => open_without_log(path, &error),
        opened => opened.map_err(failed),
    }
}

/// Reports whether the cause may be a missing WAL. A reader creates a missing WAL and its index, which fails in a folder that
/// cannot be written.
fn may_lack_log(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// Opens a file without a WAL. The file is then complete, and no server has it open, because a server keeps its WAL until it
/// ends.
fn open_without_log(path: &Path, error: &rusqlite::Error) -> Result<Connection, OpenError> {
    let real_path = fs::canonicalize(path)
        .with_context(|| format!("resolve {}", path.display()))
        .map_err(|source| unavailable(path, source))?;
    let [wal, _] = wal_and_shm(&real_path);
    let has_log = fs::metadata(&wal).is_ok_and(|metadata| metadata.len() > 0);
    if has_log {
        let problem = anyhow::anyhow!(
            "{error}: {} may hold orders that are nowhere else, and its index cannot be created in this read-only folder; \
             copy the files of the store to a writable folder",
            wal.display()
        );
        return Err(unavailable(path, problem));
    }
    open_immutable(&real_path).map_err(|error| unavailable(path, error.into()))
}

/// Opens a connection that only runs checkpoints. It has durable settings, because a checkpoint syncs the database.
pub(super) fn open_checkpointer(path: &Path) -> Result<Connection, OpenError> {
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
    // Makes plans depend on the statement alone. Otherwise binding a value can recompile a statement.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "trusted_schema", false)
}

/// Reads back the settings without which a commit might not survive a power cut.
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

/// The remedy if the file or its folder cannot be written.
const MAKE_WRITABLE: &str = "a server must be able to write the file and its folder: mount it writable, or give this user the \
                             right to write; `orderly verify` and `orderly doctor` read it as it is";

/// Adds the remedy to an error whose cause is a file that cannot be written.
pub(super) fn with_remedy(error: OpenError) -> OpenError {
    match error {
        OpenError::Unavailable { location, source } if source.chain().any(is_write_refusal) => {
            OpenError::Unavailable {
                location,
                source: source.context(MAKE_WRITABLE),
            }
        }
        other => other,
    }
}

fn is_write_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
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
    fn a_setting_that_is_not_durable_is_refused() {
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
