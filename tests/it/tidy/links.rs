//! Relative links in pages name existing files.

use std::path::Path;

use super::{Source, assert_none, files_under};

#[test]
fn relative_links_point_to_existing_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages();
    assert!(
        pages.iter().any(|page| page.path == "README.md"),
        "too few pages were read"
    );
    let mut broken = Vec::new();
    for page in &pages {
        let folder = Path::new(&page.path).parent().expect("a file is in a folder");
        for target in links(&page.text) {
            if !root.join(folder).join(target).exists() {
                broken.push(format!("{}: {target}", page.path));
            }
        }
    }
    assert_none("links lead to files that exist", &broken);
}

#[test]
fn links_are_read_correctly() {
    assert_eq!(
        links("[a](A.md) and [b](docs/B.md#part), [c](#here), [d](https://x/y.md) ![e](e.svg \"E\")"),
        ["A.md", "docs/B.md", "e.svg"]
    );
    assert_eq!(
        links("[a]: A.md\n [b]: <B.md> \"B\"\ntext [c]: C.md"),
        ["A.md", "B.md"]
    );
    assert_eq!(
        links("`[a](A.md)` is a link\n```\n[b](B.md)\n```\n[c](C.md)"),
        ["C.md"]
    );
}

/// Every page of the repository, by path.
fn pages() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(root).expect("the repository can be read") {
        let entry = entry.expect("the repository can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_page = Path::new(&name).extension().is_some_and(|found| found == "md");
        if is_page {
            pages.push(Source {
                text: std::fs::read_to_string(entry.path()).expect("pages are readable text"),
                path: name,
            });
        } else if name != "target" && !name.starts_with('.') {
            pages.extend(files_under(&name, "md"));
        }
    }
    pages
}

/// The files that a page's links name, without anchors and without other sites.
fn links(page: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut in_example = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_example = !in_example;
        }
        if in_example {
            continue;
        }
        // Text between backquotes is code.
        for text in line.split('`').step_by(2) {
            let inline = text
                .match_indices("](")
                .map(|(at, mark)| &text[at + mark.len()..]);
            targets.extend(inline.map(|rest| &rest[..rest.find([')', ' ']).unwrap_or(rest.len())]));
        }
        let definition = line.trim_start().strip_prefix('[');
        if let Some((_, target)) = definition.and_then(|rest| rest.split_once("]: ")) {
            let target = target.split_whitespace().next().unwrap_or_default();
            targets.push(target.trim_matches(['<', '>']));
        }
    }
    targets
        .into_iter()
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|file| !file.is_empty())
        .collect()
}
