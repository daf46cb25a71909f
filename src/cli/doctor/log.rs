//! Checks that the log can be written to its configured folder.

use std::path::Path;

use super::Finding;
use crate::store::probe;
const ADVICE: &str = "make the folder writable for this user, free disk space, or name another folder in ORDERLY_LOG_DIR: until \
                      then the log goes to stdout only";

/// Checks the folder, or its nearest existing parent.
pub(super) fn check(dir: &Path) -> Finding {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let nearest = dir.ancestors().find(|folder| folder.exists());
    match probe::writable(nearest.unwrap_or(&dir)) {
        Ok(()) => Finding::ok(format!("{} can be written", dir.display())),
        Err(error) => {
            let finding = format!(
                "no log file: cannot write to the folder {}: {error}",
                dir.display()
            );
            Finding::warn(finding, ADVICE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_folder_that_a_start_can_create_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(check(dir.path()).state, State::Ok);
        assert_eq!(check(&dir.path().join("a/b")).state, State::Ok);
        assert_eq!(check(&file).state, State::Warn);
        assert_eq!(check(&file.join("logs")).state, State::Warn);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
