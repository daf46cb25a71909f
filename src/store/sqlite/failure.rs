//! Classifies SQLite errors: their meaning for the callers of a transaction and for the health of the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::order::OrderId;
use crate::store::health::Health;
use crate::store::{RefusedOrder, StoreError, StoreHealth};
use rusqlite::ffi;

/// The outcome of a transaction that failed. Each of its callers gets it.
#[derive(Clone, Debug)]
pub(super) enum SqliteFailure {
    /// Nothing stored. Ends when there is space again.
    DiskFull,
    /// Nothing stored. May end by itself: the file is locked by another process, read-only, or cannot be opened.
    Unavailable(Arc<str>),
    /// Nothing stored. A file is damaged or a sync failed, so nothing may be stored any more.
    Broken(Arc<str>),
    /// Unknown outcome: the commit itself failed. Only a restart shows whether it is stored.
    Unknown(Arc<str>),
    /// The commit was synced, but there was no space to add it to the shared index. The next commit overwrites it; a crash
    /// before that restores it.
    Unindexed,
    /// Nothing stored, and a repeated call would be refused too: a constraint, a trigger or a value that is too large.
    Rejected { code: i32, text: Arc<str> },
    /// Nothing stored, and a repeated call would fail too: the statement is wrong. `code` is SQLite's code, if SQLite
    /// reported the error.
    Unexpected { code: Option<i32>, text: Arc<str> },
}

impl SqliteFailure {
    /// Classifies the error of a statement before the commit.
    pub fn of(error: &rusqlite::Error) -> SqliteFailure {
        let text: Arc<str> = error.to_string().into();
        if is_undecodable(error) {
            return SqliteFailure::Broken(text);
        }
        if matches!(error, rusqlite::Error::StatementChangedRows(_)) {
            let (code, text) = (
                ffi::SQLITE_CONSTRAINT_TRIGGER,
                "a trigger skips the change".into(),
            );
            return SqliteFailure::Rejected { code, text };
        }
        let (Some(primary), Some(extended)) = (error.sqlite_error_code(), error.sqlite_extended_error_code())
        else {
            return SqliteFailure::Unexpected { code: None, text };
        };
        match (primary, extended) {
            // The shared index grows with the WAL, and reports a full disk as an input/output error.
            (rusqlite::ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => SqliteFailure::DiskFull,
            (
                rusqlite::ErrorCode::DatabaseBusy
                | rusqlite::ErrorCode::DatabaseLocked
                | rusqlite::ErrorCode::ReadOnly
                | rusqlite::ErrorCode::PermissionDenied
                | rusqlite::ErrorCode::CannotOpen,
                _,
            ) => SqliteFailure::Unavailable(text),
            (transient, _) if TRANSIENT.contains(&transient) => SqliteFailure::Unavailable(text),
            (
                rusqlite::ErrorCode::SystemIoFailure
                | rusqlite::ErrorCode::DatabaseCorrupt
                | rusqlite::ErrorCode::NotADatabase,
                _,
            ) => SqliteFailure::Broken(text),
            (
                rusqlite::ErrorCode::ConstraintViolation
                | rusqlite::ErrorCode::TooBig
                | rusqlite::ErrorCode::TypeMismatch,
                code,
            ) => SqliteFailure::Rejected { code, text },
            (_, code) => SqliteFailure::Unexpected {
                code: Some(code),
                text,
            },
        }
    }

    /// Classifies the error of a commit.
    pub fn of_commit(error: &rusqlite::Error) -> SqliteFailure {
        if error.sqlite_extended_error_code() == Some(ffi::SQLITE_IOERR_SHMSIZE) {
            return SqliteFailure::Unindexed;
        }
        // The commit may have been synced before SQLite ran out of memory.
        if error
            .sqlite_error_code()
            .is_some_and(|code| TRANSIENT.contains(&code))
        {
            return SqliteFailure::Unknown(error.to_string().into());
        }
        match SqliteFailure::of(error) {
            SqliteFailure::Broken(text) | SqliteFailure::Unexpected { text, .. } => {
                SqliteFailure::Unknown(text)
            }
            nothing_stored => nothing_stored,
        }
    }

    /// Reports whether this is a refusal. It may concern only this call or every call of its kind.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            SqliteFailure::Rejected { .. } | SqliteFailure::Unexpected { .. }
        )
    }

    /// Reclassifies the failure of a single call, given that the store takes orders. An operator's trigger that fails reports a
    /// plain `SQLITE_ERROR` and counts as a refusal. Any other code proves nothing about the call.
    pub fn of_single_call(self) -> SqliteFailure {
        match self {
            SqliteFailure::Unexpected {
                code: Some(code),
                text,
            } if primary(code) == ffi::SQLITE_ERROR => SqliteFailure::Rejected { code, text },
            known => known,
        }
    }

    pub fn to_error(&self, attempted: &'static str) -> StoreError {
        match self {
            SqliteFailure::DiskFull => StoreError::DiskFull,
            SqliteFailure::Unavailable(text) | SqliteFailure::Broken(text) => StoreError::Unavailable {
                attempted,
                source: anyhow::Error::msg(text.to_string()),
            },
            SqliteFailure::Rejected { code, text } => StoreError::Refused {
                attempted,
                reason: reason(*code),
                source: anyhow::Error::msg(text.to_string()),
            },
            SqliteFailure::Unknown(text) | SqliteFailure::Unexpected { text, .. } => StoreError::Unexpected {
                attempted,
                source: anyhow::Error::msg(text.to_string()),
            },
            SqliteFailure::Unindexed => StoreError::Unexpected {
                attempted,
                source: anyhow::Error::msg("the disk was full when the commit was synced"),
            },
        }
    }
}

/// The database's refusal of one part of a call.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// Short ASCII without any text of a client, as in [`StoreError::Refused`].
    pub reason: String,
    /// The database's message.
    pub text: String,
}

impl Refusal {
    /// Classifies an error that may concern this part alone: a refusal, or a trigger that fails. `None` for other errors.
    pub fn of(error: &rusqlite::Error) -> Option<Refusal> {
        match SqliteFailure::of(error).of_single_call() {
            SqliteFailure::Rejected { code, text } => Some(Refusal {
                reason: reason(code),
                text: text.to_string(),
            }),
            _ => None,
        }
    }

    pub fn of_order(self, order_id: OrderId) -> RefusedOrder {
        RefusedOrder {
            order_id,
            code: self.reason,
            reason: self.text,
        }
    }
}

/// Codes of transient failures: a repeated call may succeed.
const TRANSIENT: [rusqlite::ErrorCode; 4] = [
    rusqlite::ErrorCode::OutOfMemory,
    rusqlite::ErrorCode::FileLockingProtocolFailed,
    rusqlite::ErrorCode::OperationInterrupted,
    rusqlite::ErrorCode::SchemaChanged,
];

/// The primary code: the low byte of an extended code.
fn primary(code: i32) -> i32 {
    code & 0xff
}

fn reason(code: i32) -> String {
    format!("SQLite error {code}")
}

/// Reports whether a row cannot be decoded. Pages have no checksums, so this is how damage shows.
fn is_undecodable(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..)
    )
}

/// The store's health, updated from the outcome of SQLite transactions.
pub(super) struct SqliteHealth {
    inner: Health,
    /// True after a refused probe. Other successful commits do not prove that orders can be stored again.
    cannot_accept: AtomicBool,
}

impl SqliteHealth {
    pub fn new() -> SqliteHealth {
        SqliteHealth {
            inner: Health::new(),
            cannot_accept: AtomicBool::new(false),
        }
    }

    pub fn current(&self) -> StoreHealth {
        self.inner.get()
    }

    /// Records a successful commit that wrote something.
    pub fn wrote(&self) {
        if !self.cannot_accept() {
            self.inner.works();
        }
    }

    /// Records the result of a probe, which writes as accept does and is rolled back.
    pub fn probed(&self, result: Result<(), SqliteFailure>) {
        match result {
            Ok(()) => {
                if self.cannot_accept.swap(false, Ordering::Relaxed) {
                    self.inner.works();
                }
            }
            Err(SqliteFailure::Rejected { text, .. } | SqliteFailure::Unexpected { text, .. }) => {
                self.cannot_accept.store(true, Ordering::Relaxed);
                self.inner.fails(&text);
            }
            Err(failure) => self.failed(&failure),
        }
    }

    /// Returns why orders cannot be stored, if a probe has proved it.
    pub fn refuses_to_store(&self) -> Option<String> {
        match self.inner.get() {
            StoreHealth::NotReady(reason) if self.cannot_accept() => Some(reason),
            StoreHealth::NotReady(_) | StoreHealth::Ready => None,
        }
    }

    pub fn cannot_accept(&self) -> bool {
        self.cannot_accept.load(Ordering::Relaxed)
    }

    pub fn failed(&self, failure: &SqliteFailure) {
        match failure {
            SqliteFailure::DiskFull | SqliteFailure::Unindexed => self.inner.fails("the disk is full"),
            SqliteFailure::Unavailable(text) => self.inner.fails(text),
            SqliteFailure::Broken(text) | SqliteFailure::Unknown(text) => self.inner.break_down(text),
            SqliteFailure::Rejected { .. } | SqliteFailure::Unexpected { .. } => {}
        }
    }

    pub fn closed(&self) {
        self.inner.closed();
    }

    /// Declares the store broken: nothing is stored from now on, and the process must end.
    pub fn break_down(&self, reason: &str) {
        self.inner.break_down(reason);
    }

    pub fn broken_reason(&self) -> Option<String> {
        self.inner.broken_reason()
    }

    pub async fn broken(&self) -> String {
        self.inner.broken().await
    }
}

/// A guard for the threads that the store depends on: a panic declares the store broken.
pub(super) struct BreakDownOnPanic<'s>(pub &'s SqliteHealth);

impl Drop for BreakDownOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let thread = thread::current();
            let name = thread.name().unwrap_or("nameless");
            self.0.break_down(&format!("the thread {name} panicked"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqlite(extended_code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(extended_code), None)
    }

    #[test]
    fn a_failed_sync_of_a_commit_is_an_unknown_outcome() {
        let failure = SqliteFailure::of_commit(&sqlite(ffi::SQLITE_IOERR_FSYNC));
        assert!(matches!(failure, SqliteFailure::Unknown(_)), "{failure:?}");
        let health = SqliteHealth::new();
        health.failed(&failure);
        health.wrote();
        assert!(health.broken_reason().is_some());
        assert_ne!(health.current(), StoreHealth::Ready);
    }

    /// Issue 13, point 1: such a failure once made an order Failed although its processing had succeeded.
    #[test]
    fn a_transient_failure_is_not_a_refusal() {
        for code in [
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_PROTOCOL,
            ffi::SQLITE_INTERRUPT,
            ffi::SQLITE_SCHEMA,
        ] {
            let error = sqlite(code);
            let failure = SqliteFailure::of(&error).of_single_call();
            assert!(matches!(failure, SqliteFailure::Unavailable(_)), "{failure:?}");
            assert!(Refusal::of(&error).is_none(), "{code}");
            let failure = SqliteFailure::of_commit(&error);
            assert!(matches!(failure, SqliteFailure::Unknown(_)), "{failure:?}");
        }
    }

    #[test]
    fn only_a_plain_sqlite_error_counts_as_a_refusal() {
        for (code, refuses) in [
            (ffi::SQLITE_ERROR, true),
            (ffi::SQLITE_AUTH, false),
            (ffi::SQLITE_MISUSE, false),
            (ffi::SQLITE_INTERNAL, false),
        ] {
            let error = sqlite(code);
            let failure = SqliteFailure::of(&error).of_single_call();
            assert_eq!(
                matches!(failure, SqliteFailure::Rejected { .. }),
                refuses,
                "{failure:?}"
            );
            assert_eq!(Refusal::of(&error).is_some(), refuses, "{code}");
        }
    }

    #[test]
    fn the_store_recovers_from_a_full_disk() {
        for (failure, stored_nothing) in [
            (SqliteFailure::of(&sqlite(ffi::SQLITE_FULL)), true),
            (SqliteFailure::of(&sqlite(ffi::SQLITE_IOERR_SHMSIZE)), true),
            (SqliteFailure::of_commit(&sqlite(ffi::SQLITE_FULL)), true),
            // SQLite grows the shared index after it synced the commit.
            (
                SqliteFailure::of_commit(&sqlite(ffi::SQLITE_IOERR_SHMSIZE)),
                false,
            ),
        ] {
            let refused = matches!(failure.to_error("test"), StoreError::DiskFull);
            assert_eq!(refused, stored_nothing, "{failure:?}");
            let health = SqliteHealth::new();
            health.failed(&failure);
            assert_ne!(health.current(), StoreHealth::Ready);
            health.wrote();
            assert_eq!(health.current(), StoreHealth::Ready);
        }
    }

    #[test]
    fn a_locked_file_is_unavailable_but_not_broken() {
        assert!(matches!(
            SqliteFailure::of(&sqlite(ffi::SQLITE_BUSY)),
            SqliteFailure::Unavailable(_)
        ));
        assert!(matches!(
            SqliteFailure::of(&sqlite(ffi::SQLITE_CORRUPT)),
            SqliteFailure::Broken(_)
        ));
        assert!(matches!(
            SqliteFailure::of(&sqlite(ffi::SQLITE_CONSTRAINT_UNIQUE)),
            SqliteFailure::Rejected { .. }
        ));
    }
}
