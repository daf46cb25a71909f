//! Parser of `.env` files: `NAME=value` with an optional `export`, quotes and comments. Values are literal: a `$` in a
//! password starts no variable. Other programs read the file too, so unreadable lines are skipped unless they begin with
//! a known name.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Variables of a file and the numbers of unreadable lines with known names.
pub struct DotEnv {
    pub variables: BTreeMap<String, OsString>,
    /// Line numbers from 1; the lines themselves may be secret.
    pub bad_lines: Vec<usize>,
}

pub fn parse(text: &str, is_ours: impl Fn(&str) -> bool) -> DotEnv {
    let mut variables = BTreeMap::new();
    let mut bad_lines = Vec::new();
    // Some editors start a file with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match assignment(line) {
            // The last one wins, as in a shell that sources the file.
            Some((name, value)) => drop(variables.insert(name, value.into())),
            None if is_ours(first_word(line)) => bad_lines.push(number),
            None => {}
        }
    }
    DotEnv { variables, bad_lines }
}

/// Returns the name at the start of a line.
fn first_word(line: &str) -> &str {
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let end = line.find(|character: char| !is_of_name(character));
    &line[..end.unwrap_or(line.len())]
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

fn assignment(line: &str) -> Option<(String, String)> {
    let (name, rest) = line.split_once('=')?;
    let name = name.strip_prefix("export ").unwrap_or(name).trim();
    if name.is_empty() || !name.chars().all(is_of_name) {
        return None;
    }
    Some((name.to_owned(), value(rest)?))
}

/// Parses the text after the `=`.
fn value(rest: &str) -> Option<String> {
    let trimmed = rest.trim_start();
    let (value, after) = match trimmed.chars().next() {
        Some('\'') => {
            let (value, after) = trimmed[1..].split_once('\'')?;
            (value.to_owned(), after)
        }
        Some('"') => double_quoted(&trimmed[1..])?,
        // Untrimmed: in `NAME= # comment` the blank starts the comment.
        Some(_) | None => return Some(unquoted(rest).to_owned()),
    };
    let is_end = unquoted(after).is_empty() && !after.starts_with('#');
    is_end.then_some(value)
}

/// Returns the text before a comment. A comment needs a blank before its `#`, so a password may contain one.
fn unquoted(text: &str) -> &str {
    let comment = text
        .char_indices()
        .zip(text.chars().skip(1))
        .find(|((_, blank), next)| blank.is_whitespace() && *next == '#');
    let end = comment.map_or(text.len(), |((at, _), _)| at);
    text[..end].trim()
}

/// Returns the value and the text after its closing quote. `\"` and `\\` are a quote and a backslash; any other backslash
/// is literal.
fn double_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => {
                let escaped = characters.next_if(|(_, next)| ['"', '\\'].contains(next));
                value.push(escaped.map_or('\\', |(_, escaped)| escaped));
            }
            plain => value.push(plain),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literal_except_for_quotes_and_comments() {
        for (line, value) in [
            ("KEY=plain", "plain"),
            ("  KEY = spaced out  ", "spaced out"),
            ("export KEY=exported", "exported"),
            ("KEY=", ""),
            ("KEY= # only a comment", ""),
            ("KEY=pa$HOMEword", "pa$HOMEword"),
            ("KEY=\"pa${HOME}word\"", "pa${HOME}word"),
            ("KEY=pa#word # comment", "pa#word"),
            ("KEY=pa\\ss\"w'ord", "pa\\ss\"w'ord"),
            ("KEY=a=b==", "a=b=="),
            ("KEY='it # \"is\" \\'", "it # \"is\" \\"),
            (r#"KEY="a \"b\" \\ \n # c" # d"#, r#"a "b" \ \n # c"#),
            ("KEY=''", ""),
            ("\u{feff}KEY=first in the file", "first in the file"),
            ("KEY=windows\r\n", "windows"),
            ("KEY=1\nKEY=2", "2"),
        ] {
            let read = parse(line, |_| true);
            assert_eq!(read.bad_lines, [0; 0], "{line}");
            assert_eq!(read.variables["KEY"], OsString::from(value), "{line}");
        }
    }

    #[test]
    fn comments_and_blank_lines_define_no_variables() {
        let read = parse("# KEY=1\n\n   \n  # KEY=2\n", |_| true);
        assert!(read.variables.is_empty() && read.bad_lines.is_empty());
    }

    #[test]
    fn an_unreadable_line_with_a_known_name_is_reported_by_its_number() {
        for bad in [
            "KEY",
            "KEY value",
            "KEY: value",
            "export KEY",
            "KEY ONE=value",
            "KEY='open",
            "KEY=\"open\\\"",
            "KEY='a'b",
            "KEY=\"a\"#b",
        ] {
            let read = parse(&format!("A=1\n\n{bad}\nB=2\n"), |name| name == "KEY");
            assert_eq!(read.bad_lines, [3], "{bad}");
            assert_eq!(read.variables.len(), 2, "{bad}");
        }
    }

    #[test]
    fn lines_of_other_programs_are_skipped() {
        let text = "set -a\nMY KEY=x\n=x\nOTHER='open\n-----BEGIN KEY-----\nname: value\n[section]\n{\"a\": 1}\nKEY=1\n";
        let read = parse(text, |name| name == "KEY");
        assert_eq!(read.bad_lines, [0; 0]);
        assert_eq!(read.variables["KEY"], OsString::from("1"));
    }
}
