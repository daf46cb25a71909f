//! The meaning of an error of PostgreSQL, or of the way to it, for the callers whose statement met it. The consequences
//! for the node are left to `state.rs`.

use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;

use tokio_postgres::error::SqlState;

use crate::order::OrderId;
use crate::store::{RefusedOrder, StoreError};

/// Classes of errors that follow from the values of a statement and from the rules that a database has for them: of a
/// function, a foreign value, a cardinality, data, a constraint, a trigger, a routine, `with check`, a limit, `raise`.
const REJECTIONS: [&str; 11] = ["09", "21", "22", "23", "27", "2F", "38", "39", "44", "54", "P0"];

/// Classes that PostgreSQL uses for the server, the session or the moment: they say nothing of a single order. A class that
/// PostgreSQL does not have is the choice of the operator who wrote the rule.
const SERVER_CLASSES: [&str; 22] = [
    "00", "01", "02", "03", "08", "0B", "0F", "0L", "0P", "0Z", "25", "28", "2B", "40", "53", "55", "57",
    "58", "72", "F0", "HV", "XX",
];

/// The code that `epoch_here.sql` raises.
const OTHER_SERVER: &str = "OE000";

/// What became of a statement that failed. Given to each of its callers.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Nothing stored, passes when there is space again.
    DiskFull,
    /// Nothing stored: the server only reads at the moment (a standby, or one that was set so).
    ReadOnly(Arc<str>),
    /// Nothing stored: the server was not reached, or takes no statements at the moment.
    Unavailable(Arc<str>),
    /// Nothing stored, and will not be until somebody acts: a wrong password, an unknown database, a foreign schema.
    Refused(Arc<str>),
    /// Nothing stored: this database is not one to store orders in, until it is set otherwise or replaced.
    Unsuitable(Arc<str>),
    /// Nothing stored: the statement waited or ran for longer than it may.
    TimedOut(Arc<str>),
    /// Nothing stored: the server is not that of the store's newest epoch, so one has to begin first.
    OtherServer(Arc<str>),
    /// Nothing stored, to be run again: a deadlock was broken up.
    Again(Arc<str>),
    /// The answer was lost with the connection: stored or not.
    Unknown(Arc<str>),
    /// No answer in time: stored or not, or yet to be.
    Hung(Arc<str>),
    /// Nothing stored, nor will be by any statement of the kind until an operator acts: a right was taken away, a
    /// table or a function is missing.
    Forbidden { code: Arc<str>, text: Arc<str> },
    /// Nothing stored, and this statement would be refused again with the same values: a text that the encoding does not
    /// have, a check, a trigger.
    Rejected { code: Arc<str>, text: Arc<str> },
    /// Nothing stored; what that means for the next time is unknown.
    Unexpected { code: Arc<str>, text: Arc<str> },
    /// Carried out, but the answer makes no sense.
    Unreadable(Arc<str>),
    /// Nothing stored: the store is closing.
    Closed,
}

impl Failure {
    /// Of a statement that was sent.
    pub fn of(error: &tokio_postgres::Error) -> Failure {
        match error.code() {
            Some(code) => Failure::of_code(code, describe(error).into()),
            None => Failure::Unknown(describe(error).into()),
        }
    }

    /// Of an attempt to connect.
    pub fn of_connecting(error: &tokio_postgres::Error) -> Failure {
        let text = describe(error);
        let for_good = match error.code() {
            Some(code) => refuses_for_good(code.code(), &text),
            None => cannot_succeed(error),
        };
        match for_good {
            true if text.ends_with(NO_PASSWORD) => Failure::Refused(NO_PASSWORD_TOLD.into()),
            true => Failure::Refused(text.into()),
            false => Failure::Unavailable(text.into()),
        }
    }

    pub fn undecodable(what: &str, found: impl Display) -> Failure {
        Failure::Unreadable(format!("the database answered {what} that cannot be one: {found}").into())
    }

    /// Reads a failure that the answer of a statement tells.
    pub fn of_answer(code: &str, message: &str) -> Failure {
        Failure::of_code(&SqlState::from_code(code), format!("{message} ({code})").into())
    }

    fn of_code(code: &SqlState, text: Arc<str>) -> Failure {
        // Appendix A of PostgreSQL's manual.
        match code.code() {
            // The server may have committed: it says so too when it is stopped while it waits for a standby.
            "57P01" | "57P02" | "57P04" => Failure::Unknown(text),
            "40001" | "40P01" => Failure::Again(text),
            OTHER_SERVER => Failure::OtherServer(text),
            "53100" => Failure::DiskFull,
            "25006" => Failure::ReadOnly(text),
            // Not up yet, out of connections or memory, an idle connection closed before the statement came, a transaction
            // that ended before it.
            "57P03" | "53000" | "53200" | "53300" | "53400" | "57P05" | "25P01" | "25P02" | "25P03"
            | "25P04" => Failure::Unavailable(text),
            "55P03" | "57014" => Failure::TimedOut(text),
            // A pooler that has no server to give the statement to.
            "08P01" if POOLER_WITHOUT_SERVER.iter().any(|words| text.contains(words)) => {
                Failure::Unavailable(text)
            }
            // Connection trouble, also in a pooler's words; trouble of the server's machine or of itself.
            other if ["08", "58", "XX", "F0"].contains(&&other[..2]) => Failure::Unknown(text),
            // A right, a table, a column, a function, a schema. A statement that is wrong in itself fails in every test.
            other if other.starts_with("42") || other.starts_with("3F") => Failure::Forbidden {
                code: other.into(),
                text,
            },
            other if REJECTIONS.contains(&&other[..2]) => Failure::Rejected {
                code: other.into(),
                text,
            },
            other => Failure::Unexpected {
                code: other.into(),
                text,
            },
        }
    }

    /// Whether what the statement was to store may be stored, now or soon.
    pub fn may_be_stored(&self) -> bool {
        match self {
            Failure::Unknown(_) | Failure::Hung(_) | Failure::Unreadable(_) => true,
            Failure::DiskFull
            | Failure::ReadOnly(_)
            | Failure::Unavailable(_)
            | Failure::Refused(_)
            | Failure::Unsuitable(_)
            | Failure::TimedOut(_)
            | Failure::OtherServer(_)
            | Failure::Again(_)
            | Failure::Forbidden { .. }
            | Failure::Rejected { .. }
            | Failure::Unexpected { .. }
            | Failure::Closed => false,
        }
    }

    /// Reports whether one of several calls in a statement may be to blame.
    pub fn may_be_of_one(&self) -> bool {
        matches!(
            self,
            Failure::Forbidden { .. } | Failure::Rejected { .. } | Failure::Unexpected { .. }
        )
    }

    /// Returns the failure of a call that failed alone while the store takes orders: a rule refuses this call, unless the
    /// code tells of the server.
    pub fn of_one(self) -> Failure {
        match self {
            Failure::Forbidden { code, text } | Failure::Unexpected { code, text } if is_of_a_rule(&code) => {
                Failure::Rejected { code, text }
            }
            known => known,
        }
    }

    /// Describes the refusal of one order that the statement was about.
    pub fn of_order(&self, order_id: OrderId, attempted: &'static str) -> RefusedOrder {
        let code = match self {
            Failure::Forbidden { code, .. }
            | Failure::Rejected { code, .. }
            | Failure::Unexpected { code, .. } => reason(code),
            _ => String::new(),
        };
        RefusedOrder {
            order_id,
            code,
            reason: self.to_error(attempted).to_string(),
        }
    }

    /// Whether the connection may be used on.
    pub fn leaves_connection_usable(&self) -> bool {
        match self {
            Failure::DiskFull
            | Failure::TimedOut(_)
            | Failure::OtherServer(_)
            | Failure::Again(_)
            | Failure::Forbidden { .. }
            | Failure::Rejected { .. }
            | Failure::Unexpected { .. }
            | Failure::Unreadable(_)
            | Failure::Closed => true,
            // Of a server that only reads: another connection may lead to the one that writes now.
            Failure::ReadOnly(_)
            | Failure::Unavailable(_)
            | Failure::Refused(_)
            | Failure::Unsuitable(_)
            | Failure::Unknown(_)
            | Failure::Hung(_) => false,
        }
    }

    /// Returns its words, where they come from the database or the way to it.
    pub fn text(&self) -> &str {
        match self {
            Failure::DiskFull => "the disk is full",
            Failure::Closed => "the store is closing",
            Failure::ReadOnly(text)
            | Failure::Unavailable(text)
            | Failure::Refused(text)
            | Failure::Unsuitable(text)
            | Failure::TimedOut(text)
            | Failure::OtherServer(text)
            | Failure::Again(text)
            | Failure::Unknown(text)
            | Failure::Hung(text)
            | Failure::Forbidden { text, .. }
            | Failure::Rejected { text, .. }
            | Failure::Unexpected { text, .. }
            | Failure::Unreadable(text) => text,
        }
    }

    pub fn to_error(&self, attempted: &'static str) -> StoreError {
        let source = anyhow::Error::msg(self.text().to_owned());
        match self {
            Failure::DiskFull => StoreError::DiskFull,
            Failure::Closed => StoreError::Closed,
            Failure::Rejected { code, .. } => StoreError::Refused {
                attempted,
                reason: reason(code),
                source,
            },
            unsure if unsure.may_be_stored() => StoreError::Unexpected { attempted, source },
            _ => StoreError::Unavailable { attempted, source },
        }
    }

    /// Of the statements that come before the caller's own: nothing of his was sent.
    pub fn of_preparing(self) -> Failure {
        match self {
            Failure::Unknown(text)
            | Failure::Hung(text)
            | Failure::OtherServer(text)
            | Failure::Again(text)
            | Failure::Unreadable(text) => Failure::Unavailable(text),
            Failure::Unexpected { text, .. }
            | Failure::Forbidden { text, .. }
            | Failure::Rejected { text, .. } => Failure::Refused(text),
            known => known,
        }
    }

    /// Of a statement that only reads: nothing can have been stored.
    pub fn of_reading(self) -> Failure {
        match self {
            Failure::Unknown(text) | Failure::Hung(text) => Failure::Unavailable(text),
            known => known,
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        Failure::of(&error)
    }
}

/// Reports whether a rule gave the code: it failed itself, or it raised a code of its operator's own.
fn is_of_a_rule(code: &str) -> bool {
    !SERVER_CLASSES.contains(&&code[..2])
}

fn reason(code: &str) -> String {
    format!("SQLSTATE {code}")
}

/// The driver's text where the server wants a password and the driver has none, and the text that people read.
const NO_PASSWORD: &str = "password missing";
const NO_PASSWORD_TOLD: &str =
    "the server wants a password and there is none: put it into the URL, PGPASSWORD or ~/.pgpass";
/// The driver's text where it must encrypt and the server cannot.
const NO_TLS: &str = "server does not support TLS";
/// The texts of `PgBouncer`'s lasting refusals. It sends one code for all refusals, also for those that pass.
const POOLER_REFUSALS: [&str; 3] = [
    "unsupported startup parameter",
    "no such database",
    "no such user",
];

/// `PgBouncer`'s words for a statement that it kept to itself, because it has no connection to the server.
const POOLER_WITHOUT_SERVER: [&str; 2] = ["server login has been failing", "query_wait_timeout"];

/// Reports whether only a change of settings will change the answer to a connection.
fn refuses_for_good(code: &str, text: &str) -> bool {
    // A password or a user that is wrong, a database that does not exist, a right that is missing.
    code.starts_with("28")
        || ["3D000", "42501"].contains(&code)
        || (code == "08P01" && POOLER_REFUSALS.iter().any(|refusal| text.contains(refusal)))
}

/// Reports whether the driver ended an attempt for a reason that stays: a password that is missing, a way to prove it
/// that the driver does not know, TLS that the server does not speak, a certificate that does not verify.
fn cannot_succeed(error: &tokio_postgres::Error) -> bool {
    let said = error.to_string();
    let by_driver = ["invalid configuration", "authentication error"];
    if by_driver.iter().any(|start| said.starts_with(start)) {
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

/// The server's own words where there are some; they hold no values of ours but keys of an index.
fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        return format!("{} ({})", answer.message(), answer.code().code());
    }
    // Each error tells only its own part.
    let sources = std::iter::successors(error.source(), |source| (*source).source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// Turns the failure of a verb into the error for its caller.
pub(super) fn told<T>(result: Result<T, Failure>, attempted: &'static str) -> Result<T, StoreError> {
    result.map_err(|failure| failure.to_error(attempted))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Issue 15, finding F9: it was answered 500, as if the order might be stored.
    #[test]
    fn a_statement_that_the_pooler_kept_was_not_carried_out() {
        for (text, kept) in [
            (
                "server login has been failing, try again later (server_login_retry)",
                true,
            ),
            ("query_wait_timeout", true),
            ("server conn crashed?", false),
        ] {
            let failure = Failure::of_answer("08P01", text);
            assert_eq!(!failure.may_be_stored(), kept, "{failure:?}");
        }
    }

    /// Issue 13, point 1: one such failure made an order Failed whose processing had succeeded.
    #[test]
    fn only_a_rule_refuses_a_call_that_fails_alone() {
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
            let failure = Failure::of_answer(code, "no").of_one();
            assert_eq!(
                matches!(failure, Failure::Rejected { .. }),
                refuses,
                "{failure:?}"
            );
        }
    }
}
