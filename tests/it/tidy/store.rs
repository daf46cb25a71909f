//! The store's two drivers: verbs under the same names, statements whose heads state their guarantees, and numbers in
//! SQL that equal those in Rust.

use std::collections::BTreeSet;
use std::path::Path;

use orderly::store::layer::Verb;
use orderly::store::{IDEMPOTENCY_RETENTION, SUSPECT_CRASHES};

use super::{FILE_LINES_COMFORTABLE, Source, assert_none, files_under, program};

const DRIVERS: [&str; 2] = ["sqlite", "postgres"];
/// Number of events in the row of an order before its history continues in separate rows, as in each statement that
/// writes it.
const HISTORY_ROOM: u64 = 60;

/// The file of a verb: `src/store/VERB.rs` has its request, answer and rule, and each driver implements it under the
/// same name. Verbs that only read are left to `reads.rs` and the drivers' queries.
fn file_of(verb: Verb) -> Option<&'static str> {
    match verb {
        Verb::accept => Some("accept"),
        Verb::claim | Verb::start => Some("claim"),
        Verb::settle => Some("settle"),
        Verb::renew | Verb::join | Verb::leave => Some("nodes"),
        Verb::hold_external | Verb::settle_external | Verb::claimed => Some("external_lease"),
        Verb::give_back_expired => Some("give_back"),
        Verb::cancel => Some("cancel"),
        Verb::hold | Verb::release => Some("hold"),
        Verb::fire_timers => Some("timers"),
        Verb::amend => Some("amend"),
        Verb::add_milestone => Some("milestone"),
        Verb::redrive | Verb::redrive_matching => Some("redrive"),
        Verb::prune => Some("prune"),
        Verb::history | Verb::events_after => Some("feed"),
        Verb::record_activity | Verb::vitals => Some("vitals"),
        Verb::snapshot => Some("snapshot"),
        // A flag without a rule, and reads.
        Verb::pause
        | Verb::resume
        | Verb::order_view
        | Verb::explain
        | Verb::orders
        | Verb::counters
        | Verb::queue
        | Verb::queue_just_set => None,
    }
}

#[test]
fn each_verb_has_a_rule_file_and_one_per_driver() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let files: BTreeSet<&str> = Verb::ALL.iter().filter_map(|verb| file_of(*verb)).collect();
    let paths = files.iter().flat_map(|file| {
        let in_drivers = DRIVERS.map(|driver| format!("{driver}/{file}.rs"));
        [format!("{file}.rs")].into_iter().chain(in_drivers)
    });
    let missing: Vec<String> = paths.filter(|path| !root.join(path).is_file()).collect();
    assert_none("files of verbs under src/store", &missing);
}

/// Statements and schemas, by path.
fn statements() -> Vec<Source> {
    let mut statements = files_under("src/store", "sql");
    statements.extend(files_under("migrations", "sql"));
    assert!(statements.len() >= 50, "too few statements were read");
    statements
}

/// All files with SQL.
fn sql() -> Vec<Source> {
    let in_code = program()
        .into_iter()
        .filter(|source| source.is_under("src/store"));
    statements().into_iter().chain(in_code).collect()
}

#[test]
fn every_statement_states_what_it_guarantees() {
    // Without a subject or a verb the reader has to guess.
    const OPENINGS: [&str; 15] = [
        "Of", "What", "How", "Who", "Whether", "Those", "For", "From", "In", "At", "To", "On", "Until", "So",
        "As",
    ];
    let mut breaches = Vec::new();
    for statement in statements() {
        let mut words = statement.text.split([' ', '\n', ',', ':']);
        let marked = words.next() == Some("--");
        let opening = words.next().unwrap_or_default();
        if !marked || OPENINGS.contains(&opening) || statement.text.starts_with("-- The same") {
            breaches.push(format!("{}: {opening}", statement.path));
        }
        let lines = statement.text.lines().count();
        if lines > FILE_LINES_COMFORTABLE {
            breaches.push(format!("{}: {lines} lines", statement.path));
        }
        let undone = ["TODO", "FIXME"].iter().any(|word| statement.text.contains(word));
        if undone {
            breaches.push(format!("{}: something is left undone", statement.path));
        }
    }
    assert_none("statements open with a noun or a verb", &breaches);
}

/// The variants of a table in `codes.rs`, whose indexes are their codes.
fn codes(table: &str) -> Vec<String> {
    let codes = std::fs::read_to_string("src/store/codes.rs").expect("the codes are in their file");
    let (_, rest) = codes
        .split_once(&format!("const {table}: "))
        .expect("the table exists");
    let (rows, _) = rest.split_once("];\n").expect("the table ends");
    rows.lines()
        .skip(1)
        .map(|row| {
            row.rsplit("::")
                .next()
                .unwrap_or_default()
                .trim_end_matches(',')
                .to_owned()
        })
        .collect()
}

/// `RetryScheduled` as `retry_scheduled`.
fn snake(name: &str) -> String {
    let letters = name.char_indices().flat_map(|(at, letter)| {
        let gap = (letter.is_uppercase() && at > 0).then_some('_');
        gap.into_iter().chain(letter.to_lowercase())
    });
    letters.collect()
}

/// The codes and names that a comment lists after `head`, up to the full stop.
fn listed(schema: &str, head: &str) -> Vec<(usize, String)> {
    let lines = schema.lines().map(|line| line.trim_start_matches("--").trim());
    let text: String = lines.flat_map(|line| [line, " "]).collect();
    let (_, list) = text
        .split_once(head)
        .unwrap_or_else(|| panic!("no list of `{head}`"));
    let (list, _) = list.split_once('.').expect("a list ends with a full stop");
    let words: Vec<&str> = list
        .split([' ', ',', ';'])
        .filter(|word| !word.is_empty())
        .collect();
    let pairs = words
        .windows(2)
        .filter_map(|pair| Some((pair[0].parse().ok()?, pair[1].to_owned())));
    pairs.collect()
}

#[test]
fn the_schemas_list_the_codes_of_statuses_and_kinds() {
    let statuses: Vec<(usize, String)> = codes("STATUSES").into_iter().enumerate().collect();
    let kinds = codes("KINDS").into_iter().map(|name| snake(&name)).enumerate();
    let kinds: Vec<(usize, String)> = kinds.collect();
    assert_eq!((statuses.len(), kinds.len()), (5, 14), "wrong number of codes");
    let schema = |driver: &str| {
        let path = format!("migrations/{driver}/0001_initial.sql");
        std::fs::read_to_string(path).expect("a driver has a schema")
    };
    let (sqlite, postgres) = (schema("sqlite"), schema("postgres"));
    assert_eq!(listed(&sqlite, "status: "), statuses);
    assert_eq!(listed(&sqlite, "kind: "), kinds);
    assert_eq!(listed(&postgres, "kind of an event: "), kinds);
    // An order in processing has the code of an open one; its lease makes the difference.
    let is_processing = |(_, name): &&(usize, String)| name == "Processing";
    let open = (0, "open".to_owned());
    let ended = statuses.iter().skip(2);
    let shown = statuses.iter().take(2);
    let in_postgres: Vec<(usize, String)> = [&open].into_iter().chain(ended).chain(shown).cloned().collect();
    assert_eq!(listed(&postgres, "status of an order: "), in_postgres);
    let stored = statuses.iter().filter(|status| !is_processing(status));
    let stored: Vec<String> = stored.map(|(code, _)| code.to_string()).collect();
    let check = format!("check (status in ({}))", stored.join(", "));
    assert!(postgres.contains(&check), "{check}");
    let check = format!("check (status between 0 and {})", statuses.len() - 1);
    assert!(sqlite.contains(&check), "{check}");
}

/// The numbers after each of the marks, including lists in brackets.
fn numbers_after(text: &str, marks: &[&str]) -> Vec<u64> {
    let behind = marks.iter().flat_map(|mark| text.split(*mark).skip(1));
    let number = |part: &str| {
        let end = part
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(part.len());
        part[..end].parse().ok()
    };
    behind
        .flat_map(
            |rest| match rest.strip_prefix('(').and_then(|list| list.split_once(')')) {
                Some((list, _)) => list.split(", ").filter_map(number).collect::<Vec<u64>>(),
                None => number(rest).into_iter().collect(),
            },
        )
        .collect()
}

fn compared(column: &str) -> Vec<String> {
    let signs = ["=", "<>", ">", "<", ">=", "in", "when", "between"];
    signs.iter().map(|sign| format!("{column} {sign} ")).collect()
}

#[test]
fn statements_use_only_known_codes() {
    let mut breaches = Vec::new();
    for (column, table) in [("status", "STATUSES"), ("kind", "KINDS")] {
        let known = codes(table).len() as u64;
        let marks = compared(column);
        let marks: Vec<&str> = marks.iter().map(String::as_str).collect();
        let mut seen = BTreeSet::new();
        for source in sql() {
            let mut numbers = numbers_after(&source.text, &marks);
            if column == "kind" {
                numbers.extend(numbers_after(&source.text, &["array[row(", " row(", "batch, "]));
            }
            let unknown = numbers.iter().filter(|code| **code >= known);
            breaches.extend(unknown.map(|code| format!("{}: {column} {code}", source.path)));
            seen.extend(numbers);
        }
        assert!(seen.len() >= 3, "too few codes were read: {seen:?}");
    }
    assert_none("codes of statements are in codes.rs", &breaches);
}

/// Numbers repeated in several statements, because a statement of the hot path or an index takes no parameter.
#[test]
fn numbers_repeated_in_sql_equal_their_rust_constants() {
    let hours = IDEMPOTENCY_RETENTION.as_secs() / 3_600;
    let shared = program();
    let shared = shared
        .iter()
        .find(|source| source.path == "src/store/postgres/shared.rs");
    let slots = numbers_after(
        &shared.expect("the file exists").text,
        &["const COUNTER_SLOTS: i16 = "],
    )[0];
    for (marks, expected, places) in [
        (["crashes < ", "crashes >= "], u64::from(SUSPECT_CRASHES), 8),
        (["interval '", "no such mark"], hours, 3),
        (["history) > ", "version - 2) / "], HISTORY_ROOM, 3),
        (["preferred + 37 * step) % ", "no such mark"], slots, 1),
        (["select generate_series(0, ", "no such mark"], slots - 1, 1),
    ] {
        let mut found = 0;
        let mut breaches = Vec::new();
        for source in sql() {
            let text = source.text.replace("interval '1 ", "interval of one ");
            let numbers = numbers_after(&text, &marks);
            found += numbers.len();
            let wrong = numbers.iter().filter(|number| **number != expected);
            breaches.extend(wrong.map(|number| format!("{}: {} {number}", source.path, marks[0])));
        }
        assert!(found >= places, "{marks:?} occurs only {found} times");
        assert_none(&format!("{marks:?} is {expected}"), &breaches);
    }
}
