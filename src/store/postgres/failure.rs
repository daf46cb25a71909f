//! The meaning of an error of PostgreSQL, or of the connection to it, for the callers of the failed statement.
//! `database_state.rs` draws the consequences for the node.

use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;

use tokio_postgres::error::SqlState;

use crate::order::OrderId;
use crate::store::{RefusedOrder, StoreError};

/// SQLSTATE classes of errors that follow from the values of a statement and the rules of the database: function,
/// foreign data, cardinality, data, constraint, trigger, routine, `with check`, limit, `raise`.
const REJECTIONS: [&str; 11] = ["09", "21", "22", "23", "27", "2F", "38", "39", "44", "54", "P0"];

/// SQLSTATE classes that concern the server, the session or the moment, not a single order. An operator who writes a
/// rule chooses a class that PostgreSQL does not have.
const SERVER_CLASSES: [&str; 22] = [
    "00", "01", "02", "03", "08", "0B", "0F", "0L", "0P", "0Z", "25", "28", "2B", "40", "53", "55", "57",
    "58", "72", "F0", "HV", "XX",
];

/// The SQLSTATE that `epoch_here.sql` raises.
const OTHER_SERVER: &str = "OE000";

/// The way in which a statement failed. Each of its callers gets a copy.
#[derive(Clone, Debug)]
pub(super) enum PgFailure {
    /// Nothing was stored; passes when there is space again.
    DiskFull,
    /// Nothing was stored: the server is read-only at the moment (a standby, or set so).
    ReadOnly(Arc<str>),
    /// Nothing was stored: the server was not reached, or takes no statements at the moment.
    Unavailable(Arc<str>),
    /// Nothing was stored, nor will be until an operator acts: a wrong password, an unknown database, a foreign
    /// schema.
    Refused(Arc<str>),
    /// Nothing was stored: orders must not be stored in this database until it is configured differently or replaced.
    Unsuitable(Arc<str>),
    /// Nothing was stored: the statement waited or ran longer than it may.
    TimedOut(Arc<str>),
    /// Nothing was stored: the server is not that of the newest epoch, so an epoch must begin first.
    OtherServer(Arc<str>),
    /// Nothing was stored; run it again. A deadlock was broken.
    Again(Arc<str>),
    /// The answer was lost with the connection, so the outcome is unknown.
    Unknown(Arc<str>),
    /// No answer came in time. The statement was stored, or not, or will be.
    Hung(Arc<str>),
    /// Nothing was stored, nor will be by any such statement until an operator acts: a right was revoked, a table or
    /// a function is missing.
    Forbidden { code: Arc<str>, text: Arc<str> },
    /// Nothing was stored, and the same values would be refused again: by the encoding, a check or a trigger.
    Rejected { code: Arc<str>, text: Arc<str> },
    /// Nothing was stored; the next try may succeed or not.
    Unexpected { code: Arc<str>, text: Arc<str> },
    /// The statement ran, but its answer makes no sense.
    Unreadable(Arc<str>),
    /// Nothing was stored: the store is closing.
    Closed,
}

impl PgFailure {
    /// Makes the failure of a statement that was sent.
    pub fn of(error: &tokio_postgres::Error) -> PgFailure {
        match error.code() {
            Some(code) => PgFailure::of_code(code, describe(error).into()),
            None => PgFailure::Unknown(describe(error).into()),
        }
    }

    /// Makes the failure of an attempt to connect.
    pub fn of_connecting(error: &tokio_postgres::Error) -> PgFailure {
        let text = describe(error);
        let for_good = match error.code() {
            Some(code) => refuses_for_good(code.code(), &text),
            None => cannot_succeed(error),
        };
        match for_good {
            true if text.ends_with(NO_PASSWORD) => PgFailure::Refused(NO_PASSWORD_ADVICE.into()),
            true => PgFailure::Refused(text.into()),
            false => PgFailure::Unavailable(text.into()),
        }
    }

    /// Makes the failure for an answer that cannot be decoded as `what`.
    pub fn undecodable(what: &str, found: impl Display) -> PgFailure {
        PgFailure::Unreadable(format!("cannot decode the database's answer: {what} cannot be {found}").into())
    }

    /// Makes a failure from a SQLSTATE and a message in a statement's answer.
    pub fn of_answer(code: &str, message: &str) -> PgFailure {
        PgFailure::of_code(&SqlState::from_code(code), format!("{message} ({code})").into())
    }

    fn of_code(code: &SqlState, text: Arc<str>) -> PgFailure {
        // Appendix A of PostgreSQL's manual lists the codes.
        match code.code() {
            // The server may have committed. It sends these also when it is stopped while it waits for a standby.
            "57P01" | "57P02" | "57P04" => PgFailure::Unknown(text),
            "40001" | "40P01" => PgFailure::Again(text),
            OTHER_SERVER => PgFailure::OtherServer(text),
            "53100" => PgFailure::DiskFull,
            "25006" => PgFailure::ReadOnly(text),
            // Starting up, out of connections or memory, an idle connection closed before the statement arrived, or a
            // transaction that ended before it.
            "57P03" | "53000" | "53200" | "53300" | "53400" | "57P05" | "25P01" | "25P02" | "25P03"
            | "25P04" => PgFailure::Unavailable(text),
            "55P03" | "57014" => PgFailure::TimedOut(text),
            // A pooler that has no server for the statement.
            "08P01" if POOLER_WITHOUT_SERVER.iter().any(|words| text.contains(words)) => {
                PgFailure::Unavailable(text)
            }
            // Connection errors, also of a pooler, and errors of the machine or the server itself.
            other if ["08", "58", "XX", "F0"].contains(&&other[..2]) => PgFailure::Unknown(text),
            // A right, table, column, function or schema. A statement that is wrong in itself fails in every test.
            other if other.starts_with("42") || other.starts_with("3F") => PgFailure::Forbidden {
                code: other.into(),
                text,
            },
            other if REJECTIONS.contains(&&other[..2]) => PgFailure::Rejected {
                code: other.into(),
                text,
            },
            other => PgFailure::Unexpected {
                code: other.into(),
                text,
            },
        }
    }

    /// The failure of a read after a commit: the change is stored.
    pub fn after_commit(self) -> PgFailure {
        PgFailure::Unreadable(format!("cannot read the changed order: {}", self.text()).into())
    }

    /// Reports whether the statement may have been stored, now or soon.
    pub fn may_be_stored(&self) -> bool {
        match self {
            PgFailure::Unknown(_) | PgFailure::Hung(_) | PgFailure::Unreadable(_) => true,
            PgFailure::DiskFull
            | PgFailure::ReadOnly(_)
            | PgFailure::Unavailable(_)
            | PgFailure::Refused(_)
            | PgFailure::Unsuitable(_)
            | PgFailure::TimedOut(_)
            | PgFailure::OtherServer(_)
            | PgFailure::Again(_)
            | PgFailure::Forbidden { .. }
            | PgFailure::Rejected { .. }
            | PgFailure::Unexpected { .. }
            | PgFailure::Closed => false,
        }
    }

    /// Reports whether a single call of the statement's group may be to blame.
    pub fn may_concern_one_call(&self) -> bool {
        matches!(
            self,
            PgFailure::Forbidden { .. } | PgFailure::Rejected { .. } | PgFailure::Unexpected { .. }
        )
    }

    /// Turns the failure of a call that failed alone, while the store takes orders, into a refusal, unless the code
    /// concerns the server.
    pub fn into_refusal(self) -> PgFailure {
        match self {
            PgFailure::Forbidden { code, text } | PgFailure::Unexpected { code, text }
                if is_of_a_rule(&code) =>
            {
                PgFailure::Rejected { code, text }
            }
            failure => failure,
        }
    }

    /// Describes the refusal of the one order that the statement was about.
    pub fn refusal_of_order(&self, order_id: OrderId, attempted: &'static str) -> RefusedOrder {
        let code = match self {
            PgFailure::Forbidden { code, .. }
            | PgFailure::Rejected { code, .. }
            | PgFailure::Unexpected { code, .. } => reason(code),
            _ => String::new(),
        };
        RefusedOrder {
            order_id,
            code,
            reason: self.to_error(attempted).to_string(),
        }
    }

    /// Reports whether the connection may be used again.
    pub fn leaves_connection_usable(&self) -> bool {
        match self {
            PgFailure::DiskFull
            | PgFailure::TimedOut(_)
            | PgFailure::OtherServer(_)
            | PgFailure::Again(_)
            | PgFailure::Forbidden { .. }
            | PgFailure::Rejected { .. }
            | PgFailure::Unexpected { .. }
            | PgFailure::Unreadable(_)
            | PgFailure::Closed => true,
            // After `ReadOnly`, another connection may lead to a server that takes writes.
            PgFailure::ReadOnly(_)
            | PgFailure::Unavailable(_)
            | PgFailure::Refused(_)
            | PgFailure::Unsuitable(_)
            | PgFailure::Unknown(_)
            | PgFailure::Hung(_) => false,
        }
    }

    /// Returns the text of the error, in the words of the database or the driver.
    pub fn text(&self) -> &str {
        match self {
            PgFailure::DiskFull => "the disk is full",
            PgFailure::Closed => "the store is closing",
            PgFailure::ReadOnly(text)
            | PgFailure::Unavailable(text)
            | PgFailure::Refused(text)
            | PgFailure::Unsuitable(text)
            | PgFailure::TimedOut(text)
            | PgFailure::OtherServer(text)
            | PgFailure::Again(text)
            | PgFailure::Unknown(text)
            | PgFailure::Hung(text)
            | PgFailure::Forbidden { text, .. }
            | PgFailure::Rejected { text, .. }
            | PgFailure::Unexpected { text, .. }
            | PgFailure::Unreadable(text) => text,
        }
    }

    pub fn to_error(&self, attempted: &'static str) -> StoreError {
        let source = anyhow::Error::msg(self.text().to_owned());
        match self {
            PgFailure::DiskFull => StoreError::DiskFull,
            PgFailure::Closed => StoreError::Closed,
            PgFailure::Rejected { code, .. } => StoreError::Refused {
                attempted,
                reason: reason(code),
                source,
            },
            failure if failure.may_be_stored() => StoreError::Unexpected { attempted, source },
            _ => StoreError::Unavailable { attempted, source },
        }
    }

    /// Converts the failure of a preparing statement: the caller's own statement was not sent.
    pub fn while_preparing(self) -> PgFailure {
        match self {
            PgFailure::Unknown(text)
            | PgFailure::Hung(text)
            | PgFailure::OtherServer(text)
            | PgFailure::Again(text)
            | PgFailure::Unreadable(text) => PgFailure::Unavailable(text),
            PgFailure::Unexpected { text, .. }
            | PgFailure::Forbidden { text, .. }
            | PgFailure::Rejected { text, .. } => PgFailure::Refused(text),
            failure => failure,
        }
    }

    /// Converts the failure of a statement that only reads: nothing can have been stored.
    pub fn while_reading(self) -> PgFailure {
        match self {
            PgFailure::Unknown(text) | PgFailure::Hung(text) => PgFailure::Unavailable(text),
            failure => failure,
        }
    }
}

impl From<tokio_postgres::Error> for PgFailure {
    fn from(error: tokio_postgres::Error) -> PgFailure {
        PgFailure::of(&error)
    }
}

/// Reports whether the code came from a rule of an operator: the rule failed, or raised a code of its own.
fn is_of_a_rule(code: &str) -> bool {
    !SERVER_CLASSES.contains(&&code[..2])
}

fn reason(code: &str) -> String {
    format!("SQLSTATE {code}")
}

/// The driver's text when the server wants a password and there is none, and the text that people read instead.
const NO_PASSWORD: &str = "password missing";
const NO_PASSWORD_ADVICE: &str =
    "the server wants a password and there is none: put it into the URL, PGPASSWORD or ~/.pgpass";
/// The driver's text when it must encrypt and the server cannot.
const NO_TLS: &str = "server does not support TLS";
/// Texts of `PgBouncer`'s permanent refusals. It sends one code for all refusals, including temporary ones.
const POOLER_REFUSALS: [&str; 3] = [
    "unsupported startup parameter",
    "no such database",
    "no such user",
];

/// `PgBouncer`'s texts for a statement that it did not send on, because it has no connection to the server.
const POOLER_WITHOUT_SERVER: [&str; 2] = ["server login has been failing", "query_wait_timeout"];

/// Reports whether only a change of settings will let a connection succeed.
fn refuses_for_good(code: &str, text: &str) -> bool {
    // A wrong password or user, an unknown database, or a missing right.
    code.starts_with("28")
        || ["3D000", "42501"].contains(&code)
        || (code == "08P01" && POOLER_REFUSALS.iter().any(|refusal| text.contains(refusal)))
}

/// Reports whether the driver ended an attempt for a lasting reason: a missing password, an unknown authentication
/// method, a server without TLS, or a certificate that does not verify.
fn cannot_succeed(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    let by_driver = ["invalid configuration", "authentication error"];
    if by_driver.iter().any(|start| text.starts_with(start)) {
        return true;
    }
    let mut sources = std::iter::successors(error.source(), |source| (*source).source());
    sources.any(|source| {
        let io = source
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        let inner = io.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let tls = source.downcast_ref::<rustls::Error>().or(inner);
        matches!(tls, Some(rustls::Error::InvalidCertificate(_))) || source.to_string() == NO_TLS
    })
}

/// Returns the server's message, if there is one. It holds none of our values except keys of an index.
fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        return format!("{} ({})", answer.message(), answer.code().code());
    }
    // Each error in the chain describes only its own part.
    let sources = std::iter::successors(error.source(), |source| (*source).source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// Turns the failure of a verb into the error for its caller.
pub(super) fn to_store_result<T>(
    result: Result<T, PgFailure>,
    attempted: &'static str,
) -> Result<T, StoreError> {
    result.map_err(|failure| failure.to_error(attempted))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Issue 15, finding F9: such a statement was answered 500, as if the order might be stored.
    #[test]
    fn a_statement_kept_by_the_pooler_did_not_run() {
        for (text, kept) in [
            (
                "server login has been failing, try again later (server_login_retry)",
                true,
            ),
            ("query_wait_timeout", true),
            ("server conn crashed?", false),
        ] {
            let failure = PgFailure::of_answer("08P01", text);
            assert_eq!(!failure.may_be_stored(), kept, "{failure:?}");
        }
    }

    /// Issue 13, point 1: one such failure made an order Failed whose processing had succeeded.
    #[test]
    fn a_call_that_fails_alone_is_refused_only_by_a_rule() {
        for (code, refuses) in [
            ("42501", true),
            ("42883", true),
            ("3F000", true),
            ("0A000", true),
            ("20000", true),
            ("MY001", true),
            ("P0001", true),
            ("23514", true),
            ("40003", false),
            ("55000", false),
            ("55006", false),
            ("57000", false),
            ("72000", false),
            ("53200", false),
            ("25001", false),
            ("HV000", false),
        ] {
            let failure = PgFailure::of_answer(code, "no").into_refusal();
            assert_eq!(
                matches!(failure, PgFailure::Rejected { .. }),
                refuses,
                "{failure:?}"
            );
        }
    }
}
