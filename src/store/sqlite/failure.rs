//! What an error of SQLite means: for the callers whose transaction met it, and for the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::order::OrderId;
use crate::store::health::Health;
use crate::store::{RefusedOrder, StoreError, StoreHealth};
use rusqlite::ffi;

/// What became of a transaction that failed. Given to each of its callers.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Nothing stored, passes when there is space again.
    DiskFull,
    /// Nothing stored, may pass by itself: locked by another process, read-only, not to be opened.
    Unavailable(Arc<str>),
    /// Nothing stored; a file is damaged or a sync failed, so nothing may be stored any more.
    Broken(Arc<str>),
    /// The commit itself failed so: stored or not, only a restart tells.
    Unknown(Arc<str>),
    /// The commit was synced but could not be taken into the shared index for lack of space: the next commit
    /// overwrites it, a crash before that brings it back.
    Unindexed,
    /// Nothing stored, and the call would be refused again: a constraint, a trigger, a value that is too large.
    Rejected { code: i32, text: Arc<str> },
    /// Nothing stored; the statement is wrong, and would be again. With SQLite's code where it was SQLite that found out.
    Unexpected { code: Option<i32>, text: Arc<str> },
}

impl Failure {
    /// Of a statement before the commit.
    pub fn of(error: &rusqlite::Error) -> Failure {
        let text: Arc<str> = error.to_string().into();
        if is_undecodable(error) {
            return Failure::Broken(text);
        }
        if matches!(error, rusqlite::Error::StatementChangedRows(_)) {
            let (code, text) = (
                ffi::SQLITE_CONSTRAINT_TRIGGER,
                "a trigger skips the change".into(),
            );
            return Failure::Rejected { code, text };
        }
        let (Some(primary), Some(extended)) = (error.sqlite_error_code(), error.sqlite_extended_error_code())
        else {
            return Failure::Unexpected { code: None, text };
        };
        match (primary, extended) {
            // The shared index grows with the WAL and meets the full disk as an input/output error.
            (rusqlite::ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => Failure::DiskFull,
            (
                rusqlite::ErrorCode::DatabaseBusy
                | rusqlite::ErrorCode::DatabaseLocked
                | rusqlite::ErrorCode::ReadOnly
                | rusqlite::ErrorCode::PermissionDenied
                | rusqlite::ErrorCode::CannotOpen,
                _,
            ) => Failure::Unavailable(text),
            (passing, _) if PASSING.contains(&passing) => Failure::Unavailable(text),
            (
                rusqlite::ErrorCode::SystemIoFailure
                | rusqlite::ErrorCode::DatabaseCorrupt
                | rusqlite::ErrorCode::NotADatabase,
                _,
            ) => Failure::Broken(text),
            (
                rusqlite::ErrorCode::ConstraintViolation
                | rusqlite::ErrorCode::TooBig
                | rusqlite::ErrorCode::TypeMismatch,
                code,
            ) => Failure::Rejected { code, text },
            (_, code) => Failure::Unexpected {
                code: Some(code),
                text,
            },
        }
    }

    /// Of the commit.
    pub fn of_commit(error: &rusqlite::Error) -> Failure {
        if error.sqlite_extended_error_code() == Some(ffi::SQLITE_IOERR_SHMSIZE) {
            return Failure::Unindexed;
        }
        // The commit may have been synced before SQLite ran out of memory.
        if error
            .sqlite_error_code()
            .is_some_and(|code| PASSING.contains(&code))
        {
            return Failure::Unknown(error.to_string().into());
        }
        match Failure::of(error) {
            Failure::Broken(text) | Failure::Unexpected { text, .. } => Failure::Unknown(text),
            nothing_stored => nothing_stored,
        }
    }

    /// Reports a refusal, which may concern only this call or every call of its kind.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Failure::Rejected { .. } | Failure::Unexpected { .. })
    }

    /// Returns the failure of a call that failed alone while the store takes orders. A rule that fails gives the plain
    /// `SQLITE_ERROR` and counts as a refusal; any other code says nothing of the call.
    pub fn of_one(self) -> Failure {
        match self {
            Failure::Unexpected {
                code: Some(code),
                text,
            } if primary(code) == ffi::SQLITE_ERROR => Failure::Rejected { code, text },
            known => known,
        }
    }

    pub fn to_error(&self, attempted: &'static str) -> StoreError {
        match self {
            Failure::DiskFull => StoreError::DiskFull,
            Failure::Unavailable(text) | Failure::Broken(text) => StoreError::Unavailable {
                attempted,
                source: anyhow::Error::msg(text.to_string()),
            },
            Failure::Rejected { code, text } => StoreError::Refused {
                attempted,
                reason: reason(*code),
                source: anyhow::Error::msg(text.to_string()),
            },
            Failure::Unknown(text) | Failure::Unexpected { text, .. } => StoreError::Unexpected {
                attempted,
                source: anyhow::Error::msg(text.to_string()),
            },
            Failure::Unindexed => StoreError::Unexpected {
                attempted,
                source: anyhow::Error::msg("the disk was full when the commit was synced"),
            },
        }
    }
}

/// Why the database refused a part of a call.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// Short ASCII without a word of a caller, as in [`StoreError::Refused`].
    pub reason: String,
    /// The database's own words.
    pub text: String,
}

impl Refusal {
    /// Reads an error that may concern this part alone: a refusal, or a rule that fails.
    pub fn of(error: &rusqlite::Error) -> Option<Refusal> {
        match Failure::of(error).of_one() {
            Failure::Rejected { code, text } => Some(Refusal {
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

/// Codes of failures that pass by themselves: the same call may succeed the next time.
const PASSING: [rusqlite::ErrorCode; 4] = [
    rusqlite::ErrorCode::OutOfMemory,
    rusqlite::ErrorCode::FileLockingProtocolFailed,
    rusqlite::ErrorCode::OperationInterrupted,
    rusqlite::ErrorCode::SchemaChanged,
];

/// Returns the primary code, which the low byte of an extended code holds.
fn primary(code: i32) -> i32 {
    code & 0xff
}

fn reason(code: i32) -> String {
    format!("SQLite error {code}")
}

/// A row that cannot be read as what was written: pages have no checksums, so this is how damage shows.
fn is_undecodable(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..)
    )
}

/// The store's health, in the terms of SQLite's failures.
pub(super) struct State {
    health: Health,
    /// The last probe was refused: no other commit shows that orders can be stored.
    cannot_accept: AtomicBool,
}

impl State {
    pub fn new() -> State {
        State {
            health: Health::new(),
            cannot_accept: AtomicBool::new(false),
        }
    }

    pub fn health(&self) -> StoreHealth {
        self.health.get()
    }

    /// A commit that wrote something succeeded.
    pub fn wrote(&self) {
        if !self.cannot_accept() {
            self.health.works();
        }
    }

    /// A write as accept makes it was tried, and rolled back.
    pub fn probed(&self, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                if self.cannot_accept.swap(false, Ordering::Relaxed) {
                    self.health.works();
                }
            }
            Err(Failure::Rejected { text, .. } | Failure::Unexpected { text, .. }) => {
                self.cannot_accept.store(true, Ordering::Relaxed);
                self.health.fails(&text);
            }
            Err(failure) => self.failed(&failure),
        }
    }

    /// Returns the reason why orders can surely not be stored.
    pub fn refuses_to_store(&self) -> Option<String> {
        match self.health.get() {
            StoreHealth::NotReady(reason) if self.cannot_accept() => Some(reason),
            StoreHealth::NotReady(_) | StoreHealth::Ready => None,
        }
    }

    pub fn cannot_accept(&self) -> bool {
        self.cannot_accept.load(Ordering::Relaxed)
    }

    pub fn failed(&self, failure: &Failure) {
        match failure {
            Failure::DiskFull | Failure::Unindexed => self.health.fails("the disk is full"),
            Failure::Unavailable(text) => self.health.fails(text),
            Failure::Broken(text) | Failure::Unknown(text) => self.health.break_down(text),
            Failure::Rejected { .. } | Failure::Unexpected { .. } => {}
        }
    }

    pub fn closed(&self) {
        self.health.closed();
    }

    /// Nothing is stored from here on; the process is to end.
    pub fn break_down(&self, reason: &str) {
        self.health.break_down(reason);
    }

    pub fn broken_reason(&self) -> Option<String> {
        self.health.broken_reason()
    }

    pub async fn broken(&self) -> String {
        self.health.broken().await
    }
}

/// For threads without which the store does not work.
pub(super) struct BreakDownOnPanic<'s>(pub &'s State);

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
        let failure = Failure::of_commit(&sqlite(ffi::SQLITE_IOERR_FSYNC));
        assert!(matches!(failure, Failure::Unknown(_)), "{failure:?}");
        let state = State::new();
        state.failed(&failure);
        state.wrote();
        assert!(state.broken_reason().is_some());
        assert_ne!(state.health(), StoreHealth::Ready);
    }

    /// Issue 13, point 1: one such failure made an order Failed whose processing had succeeded.
    #[test]
    fn a_failure_that_passes_refuses_no_call() {
        for code in [
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_PROTOCOL,
            ffi::SQLITE_INTERRUPT,
            ffi::SQLITE_SCHEMA,
        ] {
            let error = sqlite(code);
            let failure = Failure::of(&error).of_one();
            assert!(matches!(failure, Failure::Unavailable(_)), "{failure:?}");
            assert!(Refusal::of(&error).is_none(), "{code}");
            let failure = Failure::of_commit(&error);
            assert!(matches!(failure, Failure::Unknown(_)), "{failure:?}");
        }
    }

    #[test]
    fn only_a_rule_that_fails_counts_as_a_refusal() {
        for (code, refuses) in [
            (ffi::SQLITE_ERROR, true),
            (ffi::SQLITE_AUTH, false),
            (ffi::SQLITE_MISUSE, false),
            (ffi::SQLITE_INTERNAL, false),
        ] {
            let error = sqlite(code);
            let failure = Failure::of(&error).of_one();
            assert_eq!(
                matches!(failure, Failure::Rejected { .. }),
                refuses,
                "{failure:?}"
            );
            assert_eq!(Refusal::of(&error).is_some(), refuses, "{code}");
        }
    }

    #[test]
    fn a_full_disk_passes() {
        for (failure, stored_nothing) in [
            (Failure::of(&sqlite(ffi::SQLITE_FULL)), true),
            (Failure::of(&sqlite(ffi::SQLITE_IOERR_SHMSIZE)), true),
            (Failure::of_commit(&sqlite(ffi::SQLITE_FULL)), true),
            // SQLite grows the shared index after it synced the commit.
            (Failure::of_commit(&sqlite(ffi::SQLITE_IOERR_SHMSIZE)), false),
        ] {
            let refused = matches!(failure.to_error("test"), StoreError::DiskFull);
            assert_eq!(refused, stored_nothing, "{failure:?}");
            let state = State::new();
            state.failed(&failure);
            assert_ne!(state.health(), StoreHealth::Ready);
            state.wrote();
            assert_eq!(state.health(), StoreHealth::Ready);
        }
    }

    #[test]
    fn a_lock_held_elsewhere_stores_nothing_and_breaks_nothing() {
        assert!(matches!(
            Failure::of(&sqlite(ffi::SQLITE_BUSY)),
            Failure::Unavailable(_)
        ));
        assert!(matches!(
            Failure::of(&sqlite(ffi::SQLITE_CORRUPT)),
            Failure::Broken(_)
        ));
        assert!(matches!(
            Failure::of(&sqlite(ffi::SQLITE_CONSTRAINT_UNIQUE)),
            Failure::Rejected { .. }
        ));
    }
}
