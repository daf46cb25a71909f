//! Allowed dependencies between modules, and words reserved to one of them.

use super::{Source, assert_none, program};

const DOMAIN: [&str; 8] = [
    "order",
    "money",
    "event",
    "epoch",
    "lease",
    "retry",
    "time",
    "portable_json",
];

/// Modules that each module may name besides itself and, if set, the domain. The rest may name everything.
const ARROWS: [(&str, bool, &[&str]); 29] = [
    ("causes", false, &[]),
    ("order", true, &[]),
    ("money", true, &[]),
    ("event", true, &[]),
    ("epoch", true, &[]),
    ("lease", true, &[]),
    ("retry", true, &[]),
    ("time", true, &[]),
    ("portable_json", true, &[]),
    ("config", false, &["money", "order", "retry"]),
    ("log_lines", false, &[]),
    ("metrics", false, &[]),
    ("telemetry", false, &["config", "metrics"]),
    ("tls_roots", false, &[]),
    ("certificates", false, &[]),
    ("token_bucket", false, &[]),
    (
        "store",
        true,
        &[
            "causes",
            "certificates",
            "config",
            "log_lines",
            "metrics",
            "tls_roots",
        ],
    ),
    ("order_json", true, &[]),
    (
        "processor",
        true,
        &["certificates", "order_json", "config", "tls_roots"],
    ),
    ("pull", true, &["store", "metrics"]),
    (
        "worker",
        true,
        &[
            "store",
            "processor",
            "pull",
            "log_lines",
            "metrics",
            "token_bucket",
        ],
    ),
    ("diagnosis", true, &["certificates", "config", "metrics", "store"]),
    ("handout", true, &["config", "log_lines", "store"]),
    ("janitor", true, &["store", "log_lines"]),
    ("live", true, &["store", "log_lines", "metrics"]),
    (
        "http",
        true,
        &[
            "causes",
            "diagnosis",
            "worker",
            "order_json",
            "store",
            "live",
            "pull",
            "config",
            "log_lines",
            "metrics",
            "token_bucket",
        ],
    ),
    ("verify", true, &["store"]),
    ("bench", false, &["store", "config"]),
    ("lib", false, &[]),
];
const KNOW_EVERYTHING: [&str; 3] = ["serve", "cli", "main"];

#[test]
fn modules_import_only_allowed_modules() {
    let mut breaches = Vec::new();
    for source in program() {
        let module = module_of(&source);
        if KNOW_EVERYTHING.contains(&module) {
            continue;
        }
        let Some((_, domain, others)) = ARROWS.iter().find(|(from, ..)| *from == module) else {
            breaches.push(format!(
                "{}: not in the list of allowed dependencies",
                source.path
            ));
            continue;
        };
        for named in modules_named(&source) {
            let allowed = named == module
                || (*domain && DOMAIN.contains(&named.as_str()))
                || others.contains(&named.as_str());
            if !allowed {
                breaches.push(format!("{} names {named}", source.path));
            }
        }
    }
    assert_none("modules name only allowed modules", &breaches);
}

#[test]
fn module_references_are_read_correctly() {
    let source = |text: &str| Source {
        path: "src/worker.rs".to_owned(),
        text: text.to_owned(),
    };
    let named = |text: &str| modules_named(&source(text));
    assert_eq!(named("use crate::store::Store;"), ["store"]);
    assert_eq!(named("use crate::{http, store::Store};"), ["http", "store"]);
    assert_eq!(
        named("use crate::{\n    http::{App, router},\n    cli,\n};"),
        ["http", "cli"]
    );
    assert_eq!(named("fn f() { crate::serve::run(); }"), ["serve"]);
    assert_eq!(named("// crate::http is elsewhere"), Vec::<String>::new());
}

#[test]
fn the_domain_does_not_depend_on_a_runtime() {
    let breaches: Vec<String> = program()
        .iter()
        .filter(|source| DOMAIN.contains(&module_of(source)))
        .filter(|source| source.code().contains("tokio"))
        .map(|source| source.path.clone())
        .collect();
    assert_none("the domain does not use tokio", &breaches);
}

#[test]
fn sql_is_only_under_store() {
    const SQL: [&str; 5] = [
        "select ",
        "insert into ",
        "delete from ",
        "update orders",
        "rusqlite",
    ];
    let breaches = lines_with(&SQL, |source| !source.is_under("src/store"));
    assert_none("only the store contains SQL", &breaches);
}

/// A statement built by text replacement is in no file where a reader could find it.
#[test]
fn store_statements_are_not_built_by_text_replacement() {
    const PLACES: [&str; 2] = ["src/store/postgres/message.rs", "src/store/postgres/functions.rs"];
    let replaces = |path: &str| {
        let sources = program();
        let source = sources.iter().find(|source| source.path == path);
        replaces_text(&source.expect("the file exists").code())
    };
    assert!(
        PLACES.into_iter().all(replaces),
        "other files than those listed replace text"
    );
    let breaches: Vec<String> = program()
        .iter()
        .filter(|source| source.is_under("src/store") && !PLACES.contains(&source.path.as_str()))
        .filter(|source| replaces_text(&source.code()))
        .map(|source| source.path.clone())
        .collect();
    assert_none("statements are not built by text replacement", &breaches);
}

#[test]
fn text_replacement_is_distinguished_from_other_replace_calls() {
    assert!(replaces_text(
        "statement\n    .replace(\n        \":below\",\n        below,\n    )"
    ));
    assert!(replaces_text("row(\"$1\").replace(\"{}\", \">=\")"));
    assert!(replaces_text("text.replacen('a', \"b\", 1)"));
    assert!(!replaces_text("last.replace(at(now, 1)).is_some()"));
    assert!(!replaces_text("std::mem::replace(current, next)"));
}

/// Reports whether the code calls a `replace` method with two arguments. That of `Option` takes one.
fn replaces_text(code: &str) -> bool {
    let mut calls = code.split(".replace(").skip(1);
    calls.any(has_two_arguments) || code.contains(".replacen(") || code.contains(".replace_range(")
}

/// `call` begins after the opening parenthesis of the arguments.
fn has_two_arguments(call: &str) -> bool {
    let mut depth = 0_i32;
    for character in call.chars() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => return false,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

#[test]
fn http_statuses_are_only_under_http() {
    let breaches = lines_with(&["StatusCode"], |source| {
        !["http", "cli"].contains(&module_of(source))
    });
    assert_none("only http and cli use HTTP statuses", &breaches);
}

/// `src/http/wire.rs` belongs to `http`.
fn module_of(source: &Source) -> &str {
    let inside = source.path.strip_prefix("src/").unwrap_or(&source.path);
    let end = inside.find(['/', '.']).unwrap_or(inside.len());
    &inside[..end]
}

/// The modules of this crate that the file's code names, in order.
fn modules_named(source: &Source) -> Vec<String> {
    let code = source.code();
    let mut named = Vec::new();
    for (at, path_start) in code.match_indices("crate::") {
        let rest = &code[at + path_start.len()..];
        match rest.strip_prefix('{') {
            Some(group) => named.extend(first_names(group)),
            None => named.push(name_at(rest)),
        }
    }
    named
}

/// The first name of each path in a `use` group, which ends with the closing brace of the group.
fn first_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0_i32;
    let mut at_start = true;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            _ if at_start && !character.is_whitespace() => {
                names.push(name_at(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn name_at(path: &str) -> String {
    let in_name = |character: &char| character.is_alphanumeric() || *character == '_';
    path.chars().take_while(in_name).collect()
}

fn lines_with(words: &[&str], is_bound: impl Fn(&Source) -> bool) -> Vec<String> {
    let sources = program();
    let bound = sources.iter().filter(|source| is_bound(source));
    bound
        .flat_map(|source| {
            let code = source.code();
            let found = code
                .lines()
                .filter(|line| words.iter().any(|word| line.contains(word)));
            found
                .map(|line| format!("{}: {}", source.path, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect()
}
