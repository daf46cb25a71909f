//! Checks whether a folder can be written by creating a file in it. That detects missing permissions, read-only mounts and full
//! disks.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Creates a small file and removes it.
pub fn writable(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".orderly-{:016x}.probe", rand::random::<u64>()));
    let mut file = File::create_new(&path)?;
    let written = file.write_all(b"orderly checks that it can write here\n");
    fs::remove_file(&path).and(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writable_folder_is_left_unchanged_and_others_fail() {
        let folder = tempfile::tempdir().unwrap();
        writable(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(writable(file.path()).is_err());
        assert!(writable(&folder.path().join("missing")).is_err());
    }
}
