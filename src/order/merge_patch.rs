//! JSON merge patches (RFC 7396) of texts: members that a patch does not name keep their bytes.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The members of an object, in their order.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// Returns the members of an object; `None` for any other value.
fn members(text: &str) -> Option<Vec<(String, &str)>> {
    let Members(members) = serde_json::from_str(text).ok()?;
    Some(
        members
            .into_iter()
            .map(|(name, value)| (name, value.get()))
            .collect(),
    )
}

/// Returns the text after the patch: `null` removes a member, an object is merged with the member's object, and any other value
/// replaces the member. Both are JSON without repeated names.
pub(super) fn merged(text: &str, patch: &str) -> String {
    let Some(patch_members) = members(patch) else {
        return patch.to_owned();
    };
    let before = members(text).unwrap_or_default();
    let patch_of = |name: &str| patch_members.iter().find(|(known, _)| known == name);
    let kept = before.iter().filter_map(|(name, value)| match patch_of(name) {
        None => Some((name, (*value).to_owned())),
        Some((_, "null")) => None,
        Some((_, patch)) => Some((name, merged(value, patch))),
    });
    let is_new = |name: &str| before.iter().all(|(known, _)| known != name);
    let new = patch_members
        .iter()
        .filter(|(name, value)| is_new(name) && *value != "null")
        .map(|(name, value)| (name, merged("null", value)));
    let after: Vec<(&String, String)> = kept.chain(new).collect();
    let is_same = after.len() == before.len()
        && before
            .iter()
            .zip(&after)
            .all(|((_, before), (_, after))| before == after);
    if is_same && members(text).is_some() {
        return text.to_owned();
    }
    let members: Vec<String> = after
        .into_iter()
        .map(|(name, value)| {
            let name = serde_json::to_string(name).expect("texts always serialize");
            format!("{name}:{value}")
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
mod tests {
    use super::merged;

    /// The examples of RFC 7396, appendix A, whose target or patch is an object.
    #[test]
    fn the_examples_of_the_standard_are_merged() {
        for (text, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(merged(text, patch), expected, "{text} {patch}");
        }
    }

    #[test]
    fn untouched_members_keep_their_bytes() {
        let text = r#"{ "a": 1.10, "b" : { "c":1e2 , "d":[ 1 ]} }"#;
        assert_eq!(merged(text, "{}"), text);
        assert_eq!(merged(text, r#"{"a":1.10}"#), text);
        assert_eq!(merged(text, r#"{"x":null}"#), text);
        assert_eq!(merged(text, r#"{"b":{"d":null}}"#), r#"{"a":1.10,"b":{"c":1e2}}"#);
        assert_eq!(merged(r#"{"\u0061":1}"#, r#"{"a":2}"#), r#"{"a":2}"#);
    }
}
