//! Tests named in docs/ARCHITECTURE.md: each is a function of the file that the page names.

use std::path::Path;

use super::assert_none;

#[test]
fn tests_named_in_the_architecture_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")).expect("the page can be read");
    let named = named_tests(&page);
    assert!(named.len() >= 30, "too few tests were read: {named:?}");
    let exists = |file: &str, name: &str| {
        let source = std::fs::read_to_string(root.join("tests/it").join(file));
        source.is_ok_and(|text| text.contains(&format!("fn {name}(")))
    };
    let missing: Vec<String> = named
        .iter()
        .filter(|(file, name)| !exists(file, name))
        .map(|(file, name)| format!("{file}: {name}"))
        .collect();
    assert_none("tests that the page names exist in their files", &missing);
}

#[test]
fn named_tests_are_read_correctly() {
    let page = "1. A rule about `Group::record`.\n   - `a/b.rs`: `a_first_test`, `a_second_test`; control:\n     \
                `a_third_test`\n   - `c.rs`: every test again, in its module `pooled`\n2. The field `complete_after`.\n\
                - `d.rs` is no list of tests: `a_word_of_code`.\n";
    assert_eq!(
        named_tests(page),
        [
            ("a/b.rs", "a_first_test"),
            ("a/b.rs", "a_second_test"),
            ("a/b.rs", "a_third_test")
        ]
    );
}

/// Every test that a list of tests on the page names, with its file: the path from `tests/it/`. A list item begins with the
/// file and a colon.
fn named_tests(page: &str) -> Vec<(&str, &str)> {
    let mut tests = Vec::new();
    let mut file = None;
    for line in page.lines() {
        let text = line.trim_start();
        let item = text.strip_prefix("- ");
        let continues = item.is_none() && text.len() + 5 <= line.len();
        let listed = match item.and_then(|item| item.strip_prefix('`')?.split_once("`:")) {
            Some((path, listed)) if is_rust_file(path) => {
                file = Some(path);
                listed
            }
            _ if continues => text,
            _ => {
                file = None;
                continue;
            }
        };
        if let Some(file) = file {
            let quoted = listed.split('`').skip(1).step_by(2);
            tests.extend(quoted.filter(|name| is_test_name(name)).map(|name| (file, name)));
        }
    }
    tests
}

fn is_rust_file(path: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "rs")
}

/// A test name is a sentence, so it has several words.
fn is_test_name(quoted: &str) -> bool {
    quoted.contains('_')
        && quoted
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}
