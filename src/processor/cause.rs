//! Causes of failed attempts: a reason from a closed set, which may be logged, and the message, which may hold customer
//! data and is stored only with the order.

use std::fmt;

/// The cause of a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    reason: Reason,
    /// Text of this program.
    words: String,
    /// Text of the service or processor, if any.
    said: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    ConnectionRefused,
    ConnectTimeout,
    Tls,
    /// No connection for another reason, such as name resolution or the network.
    NoConnection,
    /// The connection ended, or the answer was not HTTP.
    NoAnswer,
    AnswerTimeout,
    AttemptTimeout,
    /// An HTTP status that asks for another attempt or refuses.
    Status(u16),
    Panic,
    /// The processor gave its own reason.
    Processor,
}

impl Cause {
    /// Creates a cause with only text of this program.
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

    /// Returns the text of this program, without any external text.
    pub fn words(&self) -> &str {
        &self.words
    }
}

impl Reason {
    /// Returns the name of the reason in the log.
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
