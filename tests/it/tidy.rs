//! Rules of the source, read from the source itself: module dependencies, who uses SQL and HTTP, and how every file
//! begins. Known exceptions to a rule are listed here, and the list only shrinks.

use std::path::{Path, PathBuf};

mod blueprint;
mod circles;
mod layers;
mod links;
mod named_tests;
mod path;
mod store;
mod text;

/// Longest file that is still comfortable to read.
const FILE_LINES_COMFORTABLE: usize = 400;
/// Absolute limit for every file.
const FILE_LINES_MAX: usize = 600;

/// A file of the repository.
struct Source {
    /// The path from the root of the repository, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The shipped code: without comments and without the unit tests at the end of a file.
    fn code(&self) -> String {
        without_comments(self.shipped())
    }

    fn shipped(&self) -> &str {
        let tests = self.text.find("#[cfg(test)]\nmod tests {");
        &self.text[..tests.unwrap_or(self.text.len())]
    }

    fn unit_tests(&self) -> String {
        without_comments(&self.text[self.shipped().len()..])
    }

    fn is_under(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }
}

fn without_comments(text: &str) -> String {
    let is_comment = |line: &&str| line.trim_start().starts_with("//");
    text.lines()
        .filter(|line| !is_comment(line))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// Every Rust file of the package and of `xtask`, by path.
fn all_sources() -> Vec<Source> {
    ["src", "tests", "xtask/src"]
        .iter()
        .flat_map(|folder| files_under(folder, "rs"))
        .collect()
}

/// The sources of the program, by path.
fn program() -> Vec<Source> {
    files_under("src", "rs")
}

fn files_under(folder: &str, extension: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join(folder), extension, &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|path| Source {
            text: std::fs::read_to_string(&path).expect("sources are readable text"),
            path: relative(&path, root),
        })
        .collect()
}

fn relative(path: &Path, root: &Path) -> String {
    let inside = path.strip_prefix(root).expect("the path is under the root");
    inside
        .to_str()
        .expect("sources have plain names")
        .replace('\\', "/")
}

fn collect(folder: &Path, extension: &str, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            collect(&path, extension, paths);
        } else if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
}

/// Fails with all breaches, one per line.
fn assert_none(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n{}", breaches.join("\n"));
}
