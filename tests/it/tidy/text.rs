//! The form of every file, and files that must exist in pairs.

use std::collections::BTreeSet;

use orderly::store::layer::Verb;

use super::{FILE_LINES_COMFORTABLE, FILE_LINES_MAX, Source, all_sources, assert_none, files_under, program};

/// Files longer than comfortable, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];

/// Test files that let real time pass, each with its reason.
const SLEEPING_FILES: [(&str, &str); 4] = [
    (
        "tests/it/soak/redis.rs",
        "faults come at random instants, not after an event",
    ),
    (
        "tests/it/cluster/faults.rs",
        "the length of a freeze is the fault under test",
    ),
    (
        "tests/it/worker/script.rs",
        "simulated processing in virtual time",
    ),
    (
        "tests/it/support/proxy/link.rs",
        "a slow link is the fault under test",
    ),
];

#[test]
fn every_file_opens_with_a_module_doc() {
    let breaches: Vec<String> = all_sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    assert_none("every file opens with `//! `", &breaches);
}

#[test]
fn no_unfinished_code_is_left() {
    let words = ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "TODO"];
    assert_none("no unfinished code", &lines_with(&all_sources(), &words));
}

#[test]
fn only_the_command_line_prints() {
    let words = ["println!(", "print!(", "std::io::stdout"];
    let silent: Vec<Source> = program()
        .into_iter()
        .filter(|source| !source.is_under("src/cli") && source.path != "src/main.rs")
        .collect();
    assert_none("only the command line prints", &lines_with(&silent, &words));
}

#[test]
fn no_test_sleeps() {
    // In virtual time a sleep is free and is the subject.
    let is_virtual = |code: &str| code.contains("start_paused = true") || code.contains("time::pause()");
    let breaches: Vec<String> = all_sources()
        .iter()
        .map(|source| {
            let is_test = source.is_under("tests") || source.path.ends_with("/tests.rs");
            let code = if is_test {
                source.code()
            } else {
                source.unit_tests()
            };
            (source, code)
        })
        .filter(|(_, code)| code.contains("sleep(") && !is_virtual(code))
        .map(|(source, _)| source.path.clone())
        .filter(|path| !SLEEPING_FILES.iter().any(|(excused, _)| excused == path))
        // This rule names the words it forbids.
        .filter(|path| !path.starts_with("tests/it/tidy"))
        .collect();
    assert_none("tests wait for events, not for time", &breaches);
}

#[test]
fn files_stay_within_the_line_limit() {
    let mut breaches = Vec::new();
    for source in all_sources() {
        let lines = source.text.lines().count();
        let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if lines > FILE_LINES_MAX || (lines > FILE_LINES_COMFORTABLE && !excused) {
            breaches.push(format!("{}: {lines} lines", source.path));
        }
        if lines <= FILE_LINES_COMFORTABLE && excused {
            breaches.push(format!(
                "{}: no longer long, remove it from the list",
                source.path
            ));
        }
    }
    assert_none("files within the line limit", &breaches);
}

#[test]
fn migrations_are_numbered_without_gaps() {
    for driver in ["sqlite", "postgres"] {
        let files = files_under(&format!("migrations/{driver}"), "sql");
        assert!(!files.is_empty(), "{driver} has a schema");
        let mut numbers: Vec<String> = files.iter().map(|file| stem(file)[..4].to_owned()).collect();
        numbers.dedup();
        let expected: Vec<String> = (1..=numbers.len()).map(|number| format!("{number:04}")).collect();
        assert_eq!(numbers, expected, "{driver}");
    }
    // The first file of a step has its name; a long step has more.
    let names = |driver: &str| -> Vec<String> {
        let files = files_under(&format!("migrations/{driver}"), "sql");
        let mut names: Vec<String> = files.iter().map(stem).collect();
        names.dedup_by(|next, first| next[..4] == first[..4]);
        names
    };
    assert_eq!(
        names("sqlite"),
        names("postgres"),
        "the drivers have different steps"
    );
}

#[test]
fn problems_and_problem_pages_match() {
    let pages: BTreeSet<String> = files_under("docs/problems", "md").iter().map(stem).collect();
    let answered: BTreeSet<String> = program()
        .iter()
        .filter(|source| source.is_under("src/http") && !source.path.ends_with("/tests.rs"))
        .flat_map(|source| problems_in(&source.code()))
        .collect();
    assert!(answered.len() >= 20, "too few problems were read: {answered:?}");
    let without_page: Vec<String> = answered.difference(&pages).cloned().collect();
    assert_none("problems without a page", &without_page);
    let never_answered: Vec<String> = pages.difference(&answered).cloned().collect();
    assert_none("pages of problems that are never answered", &never_answered);
}

/// Names from the table of problems, and from answers written out in code.
fn problems_in(code: &str) -> Vec<String> {
    let is_of_name = |letter: char| letter.is_ascii_lowercase() || letter == '-';
    let name = |text: &str| -> String { text.chars().take_while(|letter| is_of_name(*letter)).collect() };
    let in_table = code
        .split("facts!(")
        .skip(1)
        .filter_map(|row| row.split_once('"'))
        .map(|(_, rest)| name(rest));
    let written_out = code.split("\"/problems/").skip(1).map(name);
    in_table
        .chain(written_out)
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn the_conformance_suite_calls_every_store_method() {
    let store = std::fs::read_to_string("src/store.rs").expect("the trait is in its file");
    let methods = methods_of_store(&store).map(|(name, _)| name);
    let methods: BTreeSet<&str> = methods.collect();
    assert!(methods.len() >= 20, "too few methods were read: {methods:?}");
    // Excludes the rest of the test support: layers call every method of the store behind.
    let suite: String = all_sources()
        .iter()
        .filter(|source| {
            source.is_under("tests/it/conformance") || source.path == "tests/it/support/harness.rs"
        })
        .map(Source::code)
        .collect();
    // Calls may span several lines.
    let suite: String = suite.split_whitespace().collect();
    let missing: Vec<String> = methods
        .iter()
        .filter(|method| !suite.contains(&format!(".{method}(")))
        .map(|method| (*method).to_owned())
        .collect();
    assert_none("methods of Store without a claim", &missing);
}

/// A method with a default compiles without being forwarded, and layers would miss it.
#[test]
fn layers_forward_every_fallible_store_method() {
    let store = std::fs::read_to_string("src/store.rs").expect("the trait is in its file");
    let can_fail = |signature: &str| signature.contains("Result<");
    let methods = methods_of_store(&store).filter(|(_, rest)| can_fail(rest));
    let methods: BTreeSet<&str> = methods.map(|(name, _)| name).collect();
    let verbs: BTreeSet<&str> = Verb::ALL.iter().map(|verb| verb.name()).collect();
    assert_eq!(methods, verbs);
}

/// The name of each method, and its signature from there on.
fn methods_of_store(store: &str) -> impl Iterator<Item = (&str, &str)> {
    let methods = between(store, "pub trait Store", "\n}\n").split("fn ").skip(1);
    methods.filter_map(|method| {
        let (name, rest) = method.split_once('(')?;
        Some((name, rest.split([';', '{']).next()?))
    })
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let from = text.find(start).expect("the start exists");
    let length = text[from..].find(end).expect("the end exists");
    &text[from..from + length]
}

fn stem(file: &Source) -> String {
    let name = file.path.rsplit('/').next().expect("a path has a last part");
    name.trim_end_matches(".md").to_owned()
}

fn lines_with(sources: &[Source], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    // The rules name the words they forbid.
    for source in sources.iter().filter(|source| !source.is_under("tests/it/tidy")) {
        for line in source.text.lines() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}: {}", source.path, line.trim()));
            }
        }
    }
    found
}
