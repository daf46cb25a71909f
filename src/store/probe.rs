//! Finds out whether a folder can be written by writing to it: rights, read-only mounts and full disks all show then.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Makes a small file and removes it.
pub fn writable(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".orderly-{:016x}.probe", rand::random::<u64>()));
    let mut file = File::create_new(&path)?;
    let written = file.write_all(b"orderly looks whether it can write here\n");
    fs::remove_file(&path).and(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_as_it_was_and_a_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        writable(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(writable(file.path()).is_err());
        assert!(writable(&folder.path().join("missing")).is_err());
    }
}
