//! JSON that is kept byte for byte and yet fully checked: other parsers, languages and databases must understand the
//! same value. The caller has already checked that the text is JSON.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Maximum depth of nested objects and arrays, the value itself included.
pub const JSON_DEPTH_MAX: usize = 32;

/// The text of one JSON value that passed [`check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(Box<str>);

impl JsonText {
    /// Checks the text of one well-formed value.
    pub fn parse(text: &str) -> Result<JsonText, JsonError> {
        check(text).map(|()| JsonText(text.into()))
    }

    /// Wraps text that a store kept.
    pub fn from_stored(text: String) -> JsonText {
        JsonText(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reason why a well-formed value is not acceptable; the message is fit for an API answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("must not be nested deeper than {JSON_DEPTH_MAX} levels")]
    TooDeep,
    #[error("must not repeat a key within an object")]
    DuplicateKey,
    #[error("must not contain the NUL character")]
    Nul,
    #[error("must have strings of Unicode characters (no lone surrogate) and numbers that a double can hold")]
    Unrepresentable,
}

/// Checks the text of one well-formed value.
pub fn check(value: &str) -> Result<(), JsonError> {
    let mut found = None;
    let mut reader = serde_json::Deserializer::from_str(value);
    let seed = Checked {
        depth: 0,
        found: &mut found,
    };
    match seed.deserialize(&mut reader) {
        Ok(()) => Ok(()),
        Err(_) => Err(found.unwrap_or(JsonError::Unrepresentable)),
    }
}

/// Visits one value and everything inside it. Recursion ends at [`JSON_DEPTH_MAX`].
struct Checked<'a> {
    /// Objects and arrays around the value.
    depth: usize,
    /// The reason, which the deserializer's own error would hide in a text.
    found: &'a mut Option<JsonError>,
}

impl Checked<'_> {
    fn inner(&mut self) -> Checked<'_> {
        Checked {
            depth: self.depth + 1,
            found: self.found,
        }
    }

    fn refuse<E: Error>(&mut self, reason: JsonError) -> E {
        *self.found = Some(reason);
        E::custom(reason)
    }

    fn enter<E: Error>(&mut self) -> Result<(), E> {
        if self.depth >= JSON_DEPTH_MAX {
            return Err(self.refuse(JsonError::TooDeep));
        }
        Ok(())
    }

    fn check_text<E: Error>(&mut self, text: &str) -> Result<(), E> {
        if text.contains('\0') {
            return Err(self.refuse(JsonError::Nul));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.enter()?;
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            self.check_text(&key)?;
            if !keys.insert(key) {
                return Err(self.refuse(JsonError::DuplicateKey));
            }
            map.next_value_seed(self.inner())?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
        self.enter()?;
        while array.next_element_seed(self.inner())?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.check_text(text)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_objects_pass() {
        for text in [
            "{}",
            r#"{"a":[1,-2.5,1e308,null,true,"\u00e9"],"b":{"a":{}}}"#,
            r#"{"big":123456789012345678901234567890}"#,
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn values_that_other_parsers_reject_are_refused() {
        for (text, reason) in [
            (r#"{"a":{"b":1,"\u0062":2}}"#, JsonError::DuplicateKey),
            (r#"{"a":"x\u0000"}"#, JsonError::Nul),
            (r#"{"a\u0000":1}"#, JsonError::Nul),
            (r#"{"a":["\ud800"]}"#, JsonError::Unrepresentable),
            (r#"{"\udc00":1}"#, JsonError::Unrepresentable),
            (r#"{"a":1e400}"#, JsonError::Unrepresentable),
        ] {
            assert_eq!(check(text), Err(reason), "{text}");
        }
    }

    #[test]
    fn depth_is_counted_with_the_object_itself() {
        let nested = |arrays: usize| format!("{{\"a\":{}{}}}", "[".repeat(arrays), "]".repeat(arrays));
        assert_eq!(check(&nested(JSON_DEPTH_MAX - 1)), Ok(()));
        assert_eq!(check(&nested(JSON_DEPTH_MAX)), Err(JsonError::TooDeep));
        assert_eq!(check(&nested(30_000)), Err(JsonError::TooDeep));
    }
}
