//! Why an attempt did not complete: a reason from a closed set, which may go into the log, and what was said about it, which
//! may hold a customer's data and goes nowhere but to the order.

use std::fmt;

/// Why an attempt did not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    reason: Reason,
    /// Text in this program's words.
    words: String,
    /// Text in the words of others, if any.
    said: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    ConnectionRefused,
    ConnectTimeout,
    Tls,
    /// No connection for another reason: name, network.
    NoConnection,
    /// The connection ended, or what came was no HTTP.
    NoAnswer,
    AnswerTimeout,
    AttemptTimeout,
    /// A status of HTTP that asks for another attempt or refuses.
    Status(u16),
    Panic,
    /// A processor of one's own says why, in its own words.
    Processor,
}

impl Cause {
    /// All of it in words of this program.
    pub fn new(reason: Reason, words: impl Into<String>) -> Cause {
        Cause {
            reason,
            words: words.into(),
            said: None,
        }
    }

    #[must_use]
    pub fn with_said(self, said: String) -> Cause {
        Cause {
            said: (!said.is_empty()).then_some(said),
            ..self
        }
    }

    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Nothing in it comes from others.
    pub fn words(&self) -> &str {
        &self.words
    }
}

impl Reason {
    /// Name of the reason in the log.
    pub fn name(self) -> &'static str {
        match self {
            Reason::ConnectionRefused => "connection_refused",
            Reason::ConnectTimeout => "connect_timeout",
            Reason::Tls => "tls",
            Reason::NoConnection => "no_connection",
            Reason::NoAnswer => "no_answer",
            Reason::AnswerTimeout => "answer_timeout",
            Reason::AttemptTimeout => "attempt_timeout",
            Reason::Status(_) => "status",
            Reason::Panic => "panic",
            Reason::Processor => "processor",
        }
    }

    pub fn status(self) -> Option<u16> {
        match self {
            Reason::Status(status) => Some(status),
            _ => None,
        }
    }
}

impl<T: Into<String>> From<T> for Cause {
    fn from(said: T) -> Cause {
        Cause {
            reason: Reason::Processor,
            words: "the processor gave a reason of its own".to_owned(),
            said: Some(said.into()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.said, self.reason) {
            (Some(said), Reason::Processor) => formatter.write_str(said),
            (Some(said), _) => write!(formatter, "{}: {said}", self.words),
            (None, _) => formatter.write_str(&self.words),
        }
    }
}
