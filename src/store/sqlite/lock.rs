//! Ensures one server per file, by whatever path it is opened.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use anyhow::Context;

use super::files::{FileId, file_at, folder_of, location, sync_folder, unavailable};
use crate::store::opening::OpenError;

/// Permissions of new folders and files: only their owner may read orders.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Permission bits of users other than the owner.
const RIGHTS_OF_OTHERS: u32 = 0o077;
/// Symbolic links followed to a file that does not exist yet: the limit of Linux.
const SYMLINKS_MAX: usize = 40;

/// Proof that no other server has the database open. It is a lock on a separate file, because closing a second descriptor of
/// the database itself would drop SQLite's own locks (sqlite.org/howtocorrupt.html section 2.2).
pub(super) struct ServerLock {
    /// Path of the database without symbolic links. SQLite keeps the WAL beside it.
    real_path: PathBuf,
    /// Path of the lock file.
    path: PathBuf,
    held: Mutex<File>,
}

impl Drop for ServerLock {
    /// Unlocks explicitly. Closing the file is not enough if a child process was forked at this moment and has not yet closed its
    /// copy of the descriptor.
    fn drop(&mut self) {
        if let Err(error) = self.held().unlock() {
            tracing::warn!(%error, "cannot unlock the lock file of the database; the end of the process does");
        }
    }
}

/// Locks the database for serving. Creates the file and its folder if they are missing, so that its real path is known.
pub(super) fn lock(path: &Path) -> Result<ServerLock, OpenError> {
    let real_path = create(path).map_err(|source| unavailable(path, source))?;
    require_one_name(path, &real_path)?;
    let mut name = real_path.clone().into_os_string();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    match try_lock(&lock_path) {
        Ok(Some(file)) => Ok(ServerLock {
            real_path,
            path: lock_path,
            held: Mutex::new(file),
        }),
        Ok(None) => Err(OpenError::InUse {
            location: location(path),
        }),
        Err(source) => Err(unavailable(path, source)),
    }
}

impl ServerLock {
    pub fn real_path(&self) -> &Path {
        &self.real_path
    }

    /// Checks that the lock file is still the one that another server would lock. If it was deleted or replaced, locks the new
    /// one; fails if another server was faster.
    pub fn ensure_held(&self) -> Result<(), String> {
        let mut held = self.held();
        let path = self.path.display();
        let is_there = held.metadata().and_then(|metadata| {
            let there = file_at(&self.path)?;
            Ok(there == Some(FileId::from(&metadata)))
        });
        match is_there {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(%error, %path, "cannot check the lock file");
                return Ok(());
            }
        }
        match try_lock(&self.path) {
            Ok(Some(file)) => {
                tracing::warn!(
                    "{path} was deleted or replaced while this server runs; it was created and locked again. Leave it there"
                );
                *held = file;
                Ok(())
            }
            Ok(None) => Err(format!(
                "{path} was replaced and is locked by another server, which has the same database open"
            )),
            Err(error) => Err(format!(
                "{path} was deleted or replaced and cannot be locked again: {error:#}"
            )),
        }
    }

    fn held(&self) -> MutexGuard<'_, File> {
        self.held.lock().expect("no code panics while it holds this lock")
    }

    #[cfg(test)]
    fn copy(&self) -> File {
        self.held().try_clone().expect("a descriptor is left")
    }
}

/// Returns the lock of a server that reaches the database by another path, past the lock of the first server.
#[cfg(test)]
pub(super) fn lock_as(path: &Path, other: &Path) -> Result<ServerLock, OpenError> {
    let mut server_lock = lock(other)?;
    server_lock.real_path = fs::canonicalize(path).expect("the file was created");
    Ok(server_lock)
}

/// Tries to lock the file; `None` if another process has the lock.
fn try_lock(path: &Path) -> anyhow::Result<Option<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(FILE_MODE)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context("lock the lock file of the database"),
    }
}

/// Creates an empty database file if it is missing. Returns its path without symbolic links.
fn create(path: &Path) -> anyhow::Result<PathBuf> {
    let mut target = path.to_owned();
    // A dangling symbolic link is followed, and its target created.
    for _ in 0..SYMLINKS_MAX {
        match fs::read_link(&target) {
            Ok(link) => target = folder_of(&target).join(link),
            Err(_) => break,
        }
    }
    create_folder(&folder_of(&target))?;
    // Opens only a new file, on which no process can hold a lock that closing would drop.
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&target);
    match made {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("create {}", target.display())),
    }
    fs::canonicalize(path).with_context(|| format!("resolve {}", path.display()))
}

/// Requires that the file has no other hard link: SQLite would use a different WAL under the other name.
fn require_one_name(path: &Path, real_path: &Path) -> Result<(), OpenError> {
    let metadata = fs::metadata(real_path)
        .with_context(|| format!("look at {}", real_path.display()))
        .map_err(|source| unavailable(path, source))?;
    if metadata.nlink() > 1 {
        return Err(OpenError::NotDurable {
            location: location(path),
            setting: format!(
                "the file has {} names (hard links), and its WAL lies beside only one of them: remove the other links, or \
                 copy the file",
                metadata.nlink()
            ),
        });
    }
    Ok(())
}

/// Warns if users other than the owner have permissions on the database. Changes nothing, because the permissions may be
/// intended. SQLite creates the WAL and its index with the permissions of the database.
pub(super) fn warn_if_open_to_others(real_path: &Path) {
    let Ok(metadata) = fs::metadata(real_path) else {
        return;
    };
    let mode = metadata.mode() & 0o777;
    if mode & RIGHTS_OF_OTHERS != 0 {
        let path = real_path.display();
        tracing::warn!(
            "{path} is open to other users of this machine (mode {mode:03o}), who may read every order: stop the server \
             and run `chmod go= {path}*`"
        );
    }
}

/// Creates a folder and its missing parents, and syncs the parent of each new folder.
fn create_folder(folder: &Path) -> anyhow::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    create_folder(&above)?;
    match fs::DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => sync_folder(&above),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("create the folder {}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn two_names_of_one_file_share_one_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let link = folder.path().join("link.db");
        symlink(&path, &link).unwrap();
        let _held = lock(&path).unwrap();
        assert!(matches!(lock(&link), Err(OpenError::InUse { .. })));
    }

    /// Issue 13, point 4.
    #[test]
    fn a_dangling_link_shares_the_lock_of_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("orders.db");
        for (name, target) in [("a.db", "new/orders.db"), ("b.db", "a.db")] {
            symlink(target, folder.path().join(name)).unwrap();
        }
        let held = lock(&folder.path().join("b.db")).unwrap();
        for name in [path.clone(), folder.path().join("a.db")] {
            assert!(
                matches!(lock(&name), Err(OpenError::InUse { .. })),
                "{}",
                name.display()
            );
        }
        assert_eq!(held.real_path(), fs::canonicalize(&path).unwrap());
    }

    #[test]
    fn a_file_with_two_names_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        drop(lock(&path).unwrap());
        let other = folder.path().join("other.db");
        fs::hard_link(&path, &other).unwrap();
        for name in [&path, &other] {
            assert!(matches!(lock(name), Err(OpenError::NotDurable { .. })));
        }
        fs::remove_file(&other).unwrap();
        lock(&path).unwrap();
    }

    /// A child process has a copy of the descriptor between fork and exec.
    #[test]
    fn an_inherited_descriptor_does_not_keep_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let held = lock(&path).unwrap();
        let _copy = held.copy();
        drop(held);
        lock(&path).unwrap();
    }

    #[test]
    fn a_deleted_lock_file_is_locked_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let held = lock(&path).unwrap();
        fs::remove_file(&held.path).unwrap();
        held.ensure_held().unwrap();
        assert!(matches!(lock(&path), Err(OpenError::InUse { .. })));
    }

    #[test]
    fn a_lock_taken_by_another_server_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let held = lock(&path).unwrap();
        fs::remove_file(&held.path).unwrap();
        let other = lock(&path).unwrap();
        let refusal = held.ensure_held().unwrap_err();
        assert!(refusal.contains("another server"), "{refusal}");
        other.ensure_held().unwrap();
    }
}
