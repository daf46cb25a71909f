//! One server per file, whatever the file is called.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use anyhow::Context;

use super::files::{FileId, file_at, folder_of, location, sync_folder, unavailable};
use crate::store::opening::OpenError;

/// Orders are for their owner alone.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Rights of anybody but the owner.
const RIGHTS_OF_OTHERS: u32 = 0o077;
/// Links followed to a file that does not exist yet, as the system follows them.
const LINKS_MAX: usize = 40;

/// Proof that no other server has the file open, for as long as it lives. A lock on a file beside the database:
/// a second descriptor of the database itself would drop SQLite's own locks when closed
/// (sqlite.org/howtocorrupt.html section 2.2).
pub(super) struct ServerLock {
    /// The database by its only name without links, beside which SQLite has its log.
    real_path: PathBuf,
    path: PathBuf,
    held: Mutex<File>,
}

impl Drop for ServerLock {
    /// Closing the file would do, but for a child process that was forked at this moment and has not yet closed its
    /// copy: the lock belongs to the open file, of which both hold a descriptor.
    fn drop(&mut self) {
        if let Err(error) = self.held().unlock() {
            tracing::warn!(%error, "could not unlock the file beside the database");
        }
    }
}

/// Locks the file for serving; makes it and its folder where they are missing, so that a link to it has somewhere to lead.
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

    /// Sees that the lock is on the file that another server would lock: one that was deleted is made anew, unless another
    /// server was quicker.
    pub fn keep(&self) -> Result<(), String> {
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
                tracing::debug!(%error, %path, "cannot look at the file of the lock");
                return Ok(());
            }
        }
        match try_lock(&self.path) {
            Ok(Some(file)) => {
                tracing::warn!(
                    "{path} was deleted or replaced while this server runs; it was made and locked again"
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

/// Returns the lock of a server that reaches the file by another way.
#[cfg(test)]
pub(super) fn lock_as(path: &Path, other: &Path) -> Result<ServerLock, OpenError> {
    let mut server_lock = lock(other)?;
    server_lock.real_path = fs::canonicalize(path).expect("it was made");
    Ok(server_lock)
}

/// Tries to lock the file; `None` where another process has the lock.
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
        Err(TryLockError::Error(error)) => Err(error).context("lock the file beside the database"),
    }
}

/// Makes the file where it is missing, empty as SQLite would, and answers its name without links.
fn create(path: &Path) -> anyhow::Result<PathBuf> {
    let mut target = path.to_owned();
    // A link that leads nowhere yet leads to the file that is made through it.
    for _ in 0..LINKS_MAX {
        match fs::read_link(&target) {
            Ok(link) => target = folder_of(&target).join(link),
            Err(_) => break,
        }
    }
    create_folder(&folder_of(&target))?;
    // Only a new file is opened here: no process has a lock on it that closing it could drop.
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

/// Requires a single name: by another name, or from another mount, the log of the same file would be another one.
fn require_one_name(path: &Path, real_path: &Path) -> Result<(), OpenError> {
    let metadata = fs::metadata(real_path)
        .with_context(|| format!("look at {}", real_path.display()))
        .map_err(|source| unavailable(path, source))?;
    if metadata.nlink() > 1 {
        return Err(OpenError::NotDurable {
            location: location(path),
            setting: format!(
                "the file has {} names (hard links), and its log lies beside one of them only: give it one name, or \
                 copy it",
                metadata.nlink()
            ),
        });
    }
    Ok(())
}

/// Says which files of a store others than their owner have rights on. They are left as they are: somebody may have wanted
/// it so. SQLite makes the log and its index with the rights of the database.
pub(super) fn warn_of_rights(real_path: &Path) {
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

/// Each new folder is an entry of the one above, which is synced for it.
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
    fn a_link_to_a_file_that_does_not_exist_yet_shares_its_lock() {
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

    /// A child process has such a descriptor between its fork and its exec.
    #[test]
    fn a_copied_descriptor_does_not_keep_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let held = lock(&path).unwrap();
        let _copy = held.copy();
        drop(held);
        lock(&path).unwrap();
    }

    #[test]
    fn a_lock_whose_file_was_deleted_is_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let held = lock(&path).unwrap();
        fs::remove_file(&held.path).unwrap();
        held.keep().unwrap();
        assert!(matches!(lock(&path), Err(OpenError::InUse { .. })));
    }

    #[test]
    fn a_lock_that_another_server_took_meanwhile_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let held = lock(&path).unwrap();
        fs::remove_file(&held.path).unwrap();
        let other = lock(&path).unwrap();
        let refusal = held.keep().unwrap_err();
        assert!(refusal.contains("another server"), "{refusal}");
        other.keep().unwrap();
    }
}
