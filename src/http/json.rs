//! Strict JSON reader: returns members and elements with the text of their values, so that numbers never pass through a
//! float and nothing is silently dropped. It knows only the grammar; `wire` knows the meaning.
//!
//! The grammar is checked without recursion (`serde_json` skips values with a stack of its own), so a body of nothing
//! but brackets costs time for its length and no stack.

use std::borrow::Cow;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

/// Reason why a text is not the expected object.
#[derive(Debug)]
pub enum ObjectError {
    /// Not JSON; the text gives the position.
    Malformed(String),
    /// JSON, but not an object.
    NotAnObject,
}

/// Calls `visit` with the name and the value's text of every member of an object, in their order, repeated names
/// included.
pub fn members<'a>(text: &'a str, visit: impl FnMut(&str, &'a str)) -> Result<(), ObjectError> {
    let malformed = |error: serde_json::Error| ObjectError::Malformed(error.to_string());
    // Checked first: the deserializer would report a number that no double holds as malformed.
    if Kind::of(text.trim_ascii_start()) != Kind::Object {
        let grammar = serde_json::from_str::<IgnoredAny>(text);
        return Err(grammar.map_or_else(malformed, |_| ObjectError::NotAnObject));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = reader.deserialize_map(Members(visit)).and_then(|()| reader.end());
    read.map_err(malformed)
}

/// Returns the texts of the elements of a well-formed array; `None` if there are more than `elements_max`.
pub fn elements(array: &str, elements_max: usize) -> Option<Vec<&str>> {
    let mut reader = serde_json::Deserializer::from_str(array);
    reader.deserialize_seq(Elements(elements_max)).ok()
}

/// Decodes a well-formed string; `None` if its escapes are not Unicode (a lone surrogate).
pub fn string(text: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(text).ok().map(|text| text.0)
}

/// Type of a well-formed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    pub fn of(value: &str) -> Kind {
        match value.as_bytes().first() {
            Some(b'"') => Kind::String,
            Some(b'[') => Kind::Array,
            Some(b'{') => Kind::Object,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members<F>(F);

impl<'de, F: FnMut(&str, &'de str)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            (self.0)(&name.0, value.get());
        }
        Ok(())
    }
}

/// Collects at most this many elements and fails beyond that.
struct Elements(usize);

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de str>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<&'de str>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = array.next_element::<&'de RawValue>()? {
            if elements.len() == self.0 {
                return Err(de::Error::custom("too many elements"));
            }
            elements.push(element.get());
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, &str)>, ObjectError> {
        let mut all = Vec::new();
        members(text, |name, value| all.push((name.to_owned(), value)))?;
        Ok(all)
    }

    #[test]
    fn members_come_in_order_with_their_text() {
        let all = read(r#" {"a": 1.50 ,"b\u0041":{ "x" : [] },"a":null} "#).unwrap();
        let expected = [("a", "1.50"), ("bA", r#"{ "x" : [] }"#), ("a", "null")];
        assert!(
            all.iter()
                .map(|(name, value)| (name.as_str(), *value))
                .eq(expected)
        );
    }

    #[test]
    fn malformed_json_is_distinguished_from_other_values() {
        for text in [
            "",
            "{",
            "[1,",
            "{}{}",
            "{\"a\":01}",
            "{\"a\":1,}",
            "nul",
            "\u{feff}{}",
            "{\"a\" 1}",
        ] {
            assert!(matches!(read(text), Err(ObjectError::Malformed(_))), "{text}");
        }
        for text in ["[]", "1", "-1e400", "null", "\"{}\"", " true "] {
            assert!(matches!(read(text), Err(ObjectError::NotAnObject)), "{text}");
        }
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let depth = 4 * 1024 * 1024;
        let nested = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        // Far less stack than one frame per bracket would take.
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || {
                assert!(read(&nested).is_ok());
                assert!(read(&nested[..depth]).is_err());
                assert!(read(&"{\"a\":".repeat(depth / 4)).is_err());
            })
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn elements_are_counted_before_they_are_kept() {
        assert_eq!(elements("[ 1 , \"x\" ]", 2), Some(vec!["1", "\"x\""]));
        assert_eq!(elements("[1,2,3]", 2), None);
        assert_eq!(elements("[]", 0), Some(vec![]));
    }

    #[test]
    fn a_lone_surrogate_is_no_string() {
        assert_eq!(string(r#""\ud83d\ude00""#).as_deref(), Some("😀"));
        assert_eq!(string(r#""\ud83d""#), None);
        assert_eq!(string(r#""\ude00\ud83d""#), None);
    }
}
