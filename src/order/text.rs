//! Texts and integers that clients give: checked once, and then of one form.

use super::{INTEGER_MAX, REASON_CHARS_MAX, REFERENCE_CHARS_MAX};

/// The client's own order number: 1 to [`REFERENCE_CHARS_MAX`] characters, no control or bidirectional-override characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(Box<str>);

impl Reference {
    pub fn parse(text: &str) -> Result<Reference, PlainTextError> {
        plain_text(text, REFERENCE_CHARS_MAX).map(Reference)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A person's reason for an action: 1 to [`REASON_CHARS_MAX`] characters, no control or bidirectional-override characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Box<str>);

impl Reason {
    pub fn parse(text: &str) -> Result<Reason, PlainTextError> {
        plain_text(text, REASON_CHARS_MAX).map(Reason)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlainTextError {
    #[error("must have 1 to {0} characters")]
    Length(usize),
    #[error("must not contain control or bidirectional-override characters")]
    Invisible,
}

/// Checks text that people read in one line.
pub(super) fn plain_text(text: &str, chars_max: usize) -> Result<Box<str>, PlainTextError> {
    if text.is_empty() || text.chars().count() > chars_max {
        return Err(PlainTextError::Length(chars_max));
    }
    if text.chars().any(is_invisible) {
        return Err(PlainTextError::Invisible);
    }
    Ok(text.into())
}

/// Reports whether a character shows nothing itself and changes how its neighbours look.
fn is_invisible(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Parses the decimal text of an integer from 1 to [`INTEGER_MAX`]; the error is fit for an API answer.
pub fn parse_integer(text: &str) -> Result<i64, &'static str> {
    const RANGE: &str = "must be an integer from 1 to 9007199254740991";
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    if digits.is_empty() || leading_zero || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("must be an integer");
    }
    let value: i64 = text.parse().map_err(|_| RANGE)?;
    if (1..=INTEGER_MAX).contains(&value) {
        Ok(value)
    } else {
        Err(RANGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_or_refused() {
        assert_eq!(parse_integer("9007199254740991"), Ok(INTEGER_MAX));
        for text in [
            "9007199254740993",
            "0",
            "-5",
            "99999999999999999999",
            "1.0",
            "1e3",
            "",
            "-",
            "007",
        ] {
            assert!(parse_integer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn references_are_counted_in_characters() {
        assert!(Reference::parse(&"é".repeat(REFERENCE_CHARS_MAX)).is_ok());
        assert_eq!(Reference::parse(""), Err(PlainTextError::Length(200)));
        assert_eq!(
            Reference::parse(&"a".repeat(201)),
            Err(PlainTextError::Length(200))
        );
        for invisible in ["a\u{0}b", "a\u{85}b", "a\u{202e}b", "a\u{2066}b"] {
            assert_eq!(Reference::parse(invisible), Err(PlainTextError::Invisible));
        }
        assert!(Reference::parse("a\u{200f}b\u{2065}").is_ok());
    }
}
