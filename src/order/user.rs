//! The user of an order: an integer, or a text of the shop's own.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::text::{PlainTextError, parse_integer, plain_text};
use super::{INTEGER_MAX, USER_ID_CHARS_MAX};

/// A user. Text that is a legal integer is no text, so that every user has one form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UserId {
    /// 1 … [`INTEGER_MAX`].
    Number(i64),
    /// 1 to [`USER_ID_CHARS_MAX`] characters.
    Name(Arc<str>),
}

/// Reason why a text is no user; the message is fit for an API answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    #[error(transparent)]
    Text(#[from] PlainTextError),
    #[error("is an integer: send it as a number")]
    Integer,
}

impl UserId {
    /// Reads the text of a JSON string.
    pub fn parse(text: &str) -> Result<UserId, UserIdError> {
        if parse_integer(text).is_ok() {
            return Err(UserIdError::Integer);
        }
        Ok(UserId::Name(plain_text(text, USER_ID_CHARS_MAX)?.into()))
    }

    /// Reads a text that may stand for either form, such as a parameter of a query.
    pub fn parse_either(text: &str) -> Result<UserId, PlainTextError> {
        match parse_integer(text) {
            Ok(number) => Ok(UserId::Number(number)),
            Err(_) => Ok(UserId::Name(plain_text(text, USER_ID_CHARS_MAX)?.into())),
        }
    }

    /// Returns the number under which a store keeps the user's orders: an integer is its own, and a text has a negative one, made
    /// from its SHA-256. Two texts with the same number would take turns, and share nothing else.
    pub fn key(&self) -> i64 {
        match self {
            UserId::Number(number) => *number,
            UserId::Name(name) => {
                let digest = Sha256::digest(name.as_bytes());
                let first = digest.first_chunk().expect("a digest has 32 bytes");
                i64::from_be_bytes(*first) | i64::MIN
            }
        }
    }

    /// Puts together the two columns of a store. `None` if they are not of one user.
    pub fn from_stored(key: i64, name: Option<&str>) -> Option<UserId> {
        match name {
            None => (1..=INTEGER_MAX).contains(&key).then_some(UserId::Number(key)),
            Some(name) => UserId::parse(name).ok().filter(|user| user.key() == key),
        }
    }

    /// Returns the text of a user that is no integer.
    pub fn name(&self) -> Option<&str> {
        match self {
            UserId::Number(_) => None,
            UserId::Name(name) => Some(name),
        }
    }
}

impl From<i64> for UserId {
    fn from(number: i64) -> UserId {
        UserId::Number(number)
    }
}

impl PartialEq<i64> for UserId {
    fn eq(&self, number: &i64) -> bool {
        matches!(self, UserId::Number(own) if own == number)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserId::Number(number) => number.fmt(formatter),
            UserId::Name(name) => name.fmt(formatter),
        }
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            UserId::Number(number) => serializer.serialize_i64(*number),
            UserId::Name(name) => serializer.serialize_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_one_form() {
        for text in ["1", "9007199254740991"] {
            assert_eq!(UserId::parse(text), Err(UserIdError::Integer));
            assert!(matches!(UserId::parse_either(text), Ok(UserId::Number(_))));
        }
        for text in ["cus_123", "0", "007", "-5", "9007199254740992", "Zoë", "1.0"] {
            let user = UserId::parse(text).unwrap();
            assert_eq!(UserId::parse_either(text), Ok(user.clone()));
            assert!(user.key() < 0);
            assert_eq!(UserId::from_stored(user.key(), Some(text)), Some(user));
        }
        for bad in ["", "a\u{202e}b", "a\nb", &"x".repeat(201)] {
            assert!(
                UserId::parse(bad).is_err() && UserId::parse_either(bad).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn columns_that_do_not_fit_are_no_user() {
        let key = UserId::parse("cus_123").unwrap().key();
        assert_eq!(UserId::from_stored(key, Some("cus_124")), None);
        assert_eq!(UserId::from_stored(key, None), None);
        assert_eq!(UserId::from_stored(0, None), None);
        assert_eq!(UserId::from_stored(7, None), Some(UserId::Number(7)));
    }

    /// Stored keys must stay the same for ever.
    #[test]
    fn the_key_of_a_text_is_the_head_of_its_sha_256_with_the_highest_bit() {
        // `printf cus_123 | sha256sum` begins with a292cac13f788f26.
        assert_eq!(
            UserId::parse("cus_123").unwrap().key(),
            -6_732_095_561_623_105_754
        );
    }
}
