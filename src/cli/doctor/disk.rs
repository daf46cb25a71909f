//! Checks the free disk space of a SQLite store.

use std::path::{Path, PathBuf};

use super::Finding;
use crate::config::Database;

const MEBIBYTE: u64 = 1024 * 1024;
/// Below this a busy store fills the disk within minutes.
const FREE_BYTES_FAIL: u64 = 64 * MEBIBYTE;
/// Below this an operator should free space soon.
const FREE_BYTES_WARN: u64 = 1024 * MEBIBYTE;
const ADVICE: &str = "free disk space: with a full disk no order is accepted";

/// Returns `None` if the orders are on another machine's disk.
pub fn check(database: &Database) -> Option<Finding> {
    match database {
        Database::Sqlite(path) => Some(check_folder_of(path)),
        Database::Postgres(_) => None,
    }
}

fn check_folder_of(path: &Path) -> Finding {
    let folder = existing_folder(path);
    match rustix::fs::statvfs(&folder) {
        Ok(volume) => judge(&folder, volume.f_bavail.saturating_mul(volume.f_frsize)),
        Err(error) => Finding::fail(
            format!("cannot inspect {}: {error}", folder.display()),
            "make the folder readable for this user",
        ),
    }
}

fn judge(folder: &Path, free: u64) -> Finding {
    let finding = format!("{} MiB free at {}", free / MEBIBYTE, folder.display());
    match free {
        0..FREE_BYTES_FAIL => Finding::fail(finding, ADVICE),
        FREE_BYTES_FAIL..FREE_BYTES_WARN => Finding::warn(finding, ADVICE),
        FREE_BYTES_WARN.. => Finding::ok(finding),
    }
}

/// Returns the data folder, or the nearest existing parent of one yet to be created.
fn existing_folder(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut folders = path.ancestors().skip(1);
    folders
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("/"))
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn little_space_warns_and_almost_none_fails() {
        let state = |free| judge(Path::new("/"), free).state;
        assert_eq!(state(0), State::Fail);
        assert_eq!(state(FREE_BYTES_FAIL), State::Warn);
        assert_eq!(state(FREE_BYTES_WARN), State::Ok);
    }

    #[test]
    fn a_missing_folder_counts_as_its_nearest_parent() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing_folder(&dir.path().join("a/b/orderly.db")), dir.path());
        assert!(existing_folder(Path::new("orderly.db")).is_dir());
    }
}
