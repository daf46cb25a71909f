//! Shows a JSON object of the server to people, with all its members: a newer server may add some.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::failure::Failure;
use super::output;

/// Width that aligns names and values of most answers.
const NAME_WIDTH_MIN: usize = 18;

/// Members of an object in their original order; numbers keep their text.
pub struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    /// Returns one line per member with a value, then a table per list of objects.
    pub fn in_full(&self) -> String {
        let name_width = self.0.iter().map(|(name, _)| name.chars().count());
        let name_width = name_width.max().unwrap_or(0).max(NAME_WIDTH_MIN);
        let mut lines = Vec::new();
        let mut tables = Vec::new();
        for (name, raw) in &self.0 {
            match serde_json::from_str::<Vec<Fields>>(raw.get()) {
                Ok(rows) if rows.is_empty() => {}
                Ok(rows) => tables.push(table(&rows)),
                Err(_) => {
                    if let Some(text) = shown(raw) {
                        let (name, text) = (output::printable(name), output::printable(&text));
                        lines.push(format!("{name:name_width$}  {text}"));
                    }
                }
            }
        }
        let lines = (!lines.is_empty()).then(|| lines.join("\n"));
        lines.into_iter().chain(tables).collect::<Vec<_>>().join("\n\n")
    }

    fn get(&self, name: &str) -> Option<String> {
        let member = self.0.iter().find(|(known, _)| known == name);
        member.and_then(|(_, raw)| shown(raw))
    }
}

/// Returns a value as the server wrote it, a string without its quotes; `None` for null.
fn shown(raw: &RawValue) -> Option<String> {
    match raw.get() {
        "null" => None,
        text => Some(serde_json::from_str(text).unwrap_or_else(|_| text.to_owned())),
    }
}

/// Returns a table with a column per member that has a value in some row.
fn table(rows: &[Fields]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, raw) in rows.iter().flat_map(|row| &row.0) {
        if shown(raw).is_some() && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let headings: Vec<String> = names
        .iter()
        .map(|name| name.to_uppercase().replace('_', " "))
        .collect();
    let cells = |row: &Fields| {
        names
            .iter()
            .map(|name| row.get(name).unwrap_or_default())
            .collect()
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    output::Table::new(headings.len()).lines([headings].iter().chain(&rows))
}

/// Reads an answer; another program may have sent it.
pub fn read(answer: &str) -> Result<Fields, Failure> {
    super::client::read(answer)
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Fields(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_shown_with_exact_amounts_and_without_empty_members() {
        let order = read(
            r#"{"order_id":45,"total_amount":100.00,"reference":null,"metadata":{"a":1.50},"status":"Failed",
            "completed_at":null,"last_error":"refused\u001b[2J","later":[1,2]}"#,
        );
        let shown = order.unwrap().in_full();
        assert!(shown.contains("total_amount        100.00\n"), "{shown}");
        assert!(shown.contains("{\"a\":1.50}"), "{shown}");
        assert!(shown.contains("later               [1,2]"), "{shown}");
        assert!(
            !shown.contains("completed_at") && !shown.contains("reference"),
            "{shown}"
        );
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn a_list_of_objects_becomes_a_table_of_their_members() {
        let queue = read(
            r#"{"pending":5,"paused":false,"nodes":[{"node":"a","busy":1,"x_y":null},{"node":"b","alive":true}],"none":[]}"#,
        );
        assert_eq!(
            queue.unwrap().in_full(),
            "pending             5\npaused              false\n\nNODE  BUSY  ALIVE\na     1\nb           true"
        );
    }

    #[test]
    fn an_answer_of_another_program_is_an_error() {
        assert!(read("<html>").is_err() && read("[]").is_err());
    }
}
