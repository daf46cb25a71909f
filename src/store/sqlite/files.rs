//! The files of a store: resolves their paths, and makes errors that name the store.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::store::opening::OpenError;

/// The identity of a file, independent of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> FileId {
        FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Identifies the file at the path; `None` if there is none. Does not open it, because closing a second descriptor of the
/// database would drop SQLite's own locks.
pub(super) fn file_at(path: &Path) -> io::Result<Option<FileId>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(FileId::from(&metadata))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Paths of the WAL and its shared-memory index.
pub(super) fn wal_and_shm(real_path: &Path) -> [PathBuf; 2] {
    ["-wal", "-shm"].map(|ending| {
        let mut name = real_path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    })
}

pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

pub(super) fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    File::open(folder)
        .and_then(|open| open.sync_all())
        .with_context(|| format!("sync the folder {}", folder.display()))
}

pub(super) fn location(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

pub(super) fn unavailable(path: &Path, source: anyhow::Error) -> OpenError {
    OpenError::Unavailable {
        location: location(path),
        source,
    }
}

pub(super) fn require_file(path: &Path) -> Result<(), OpenError> {
    if path.exists() {
        return Ok(());
    }
    Err(OpenError::Missing {
        location: location(path),
    })
}
