//! The path of an order in docs/ARCHITECTURE.md: its files exist, they are few, and the modules they use are listed
//! too.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use super::circles::Tree;
use super::{assert_none, program};

/// Maximum number of files on the path of one driver.
const FILES_MAX: usize = 50;
/// Lines on the path before the store was restructured: there must be fewer now.
const DRIVERS: [(&str, usize); 2] = [("sqlite", 9_700), ("postgres", 11_100)];

#[test]
fn the_path_of_an_order_is_short() {
    let page = page();
    for (driver, lines_max) in DRIVERS {
        let files = on_path(&page, driver);
        let lines: usize = files.iter().map(|file| lines_of(file)).sum();
        let kept: Vec<&str> = files.iter().map(String::as_str).collect();
        assert!(files.len() > 30, "too few files of {driver} were read: {kept:?}");
        assert!(files.len() <= FILES_MAX, "{driver}: {} files", files.len());
        assert!(lines < lines_max, "{driver}: {lines} lines");
    }
}

/// Every store module used on the path is on the path too, or the page says why not.
#[test]
fn the_path_of_an_order_lists_or_excludes_every_module() {
    let page = page();
    let sources = program();
    let tree = Tree::of(sources.iter().filter(|source| source.is_under("src/store")));
    let off_path = listed(&page, "#### Off the path");
    let mut missing = BTreeSet::new();
    let mut used_anywhere = BTreeSet::new();
    for (driver, _) in DRIVERS {
        let files = on_path(&page, driver);
        for file in files
            .iter()
            .filter(|file| file.starts_with(&format!("store/{driver}")) && is_a(file, &["rs"]))
        {
            // A driver's main file opens it and forwards every verb.
            if *file == format!("store/{driver}.rs") {
                continue;
            }
            for used in tree.files_used_by(file) {
                if !files.contains(&used) && !off_path.contains(&used) {
                    missing.insert(format!("{file} uses {used}"));
                }
                used_anywhere.insert(used);
            }
        }
    }
    assert_none(
        "neither on the path nor excluded with a reason",
        &Vec::from_iter(missing),
    );
    let unused: Vec<String> = off_path.difference(&used_anywhere).cloned().collect();
    assert_none("off the path, and used by no file on it", &unused);
}

#[test]
fn file_lists_are_read_correctly() {
    let page = "#### A\n\n- `b`: first `x/y.rs`,\n  `z.sql`.\n\nText `no.rs`.\n\n#### B\n\n- `later.rs`\n";
    assert_eq!(
        listed(page, "#### A"),
        ["x/y.rs", "z.sql"].map(str::to_owned).into()
    );
}

fn page() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")).expect("the page can be read")
}

fn on_path(page: &str, driver: &str) -> BTreeSet<String> {
    let of_driver = match driver {
        "sqlite" => "#### On SQLite",
        _ => "#### On PostgreSQL",
    };
    let both = listed(page, "#### On both drivers");
    both.union(&listed(page, of_driver)).cloned().collect()
}

/// The files listed below the heading, from `src/`.
fn listed(page: &str, heading: &str) -> BTreeSet<String> {
    let (_, rest) = page.split_once(heading).expect("the page has the heading");
    let section = rest.split("\n#").next().unwrap_or_default();
    let mut files = BTreeSet::new();
    let mut in_list = false;
    for line in section.lines() {
        in_list = line.starts_with("- ") || (in_list && line.starts_with("  "));
        if in_list {
            let quoted = line.split('`').skip(1).step_by(2);
            let named = quoted.filter(|name| is_a(name, &["rs", "sql"]));
            files.extend(named.map(str::to_owned));
        }
    }
    files
}

fn is_a(file: &str, kinds: &[&str]) -> bool {
    let extension = Path::new(file).extension().and_then(OsStr::to_str);
    extension.is_some_and(|extension| kinds.contains(&extension))
}

/// Number of lines of a file without its unit tests.
fn lines_of(file: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let text = std::fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{} is on the path: {error}", path.display()));
    let tests = text.find("#[cfg(test)]\nmod tests");
    text[..tests.unwrap_or(text.len())].lines().count()
}
