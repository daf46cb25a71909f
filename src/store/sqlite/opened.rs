//! The files that a server has open, told from those that their names lead to by now. A running server still writes a
//! file that is replaced, moved or deleted under it, and no client will ever read what it writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::files::{FileId, beside, file_at};
use super::lock::ServerLock;

/// The files of a store, once its connections are open.
pub(super) struct Opened {
    files: Vec<OpenedFile>,
    server_lock: Arc<ServerLock>,
}

struct OpenedFile {
    path: PathBuf,
    file: FileId,
}

impl Opened {
    /// `path` as it is configured, while a connection is open that has read it.
    pub fn of(path: &Path, server_lock: Arc<ServerLock>) -> anyhow::Result<Opened> {
        let [wal, shm] = beside(server_lock.real_path());
        let mut files = Vec::new();
        for path in [path.to_owned(), wal, shm] {
            let file = file_at(&path).with_context(|| format!("look at {}", path.display()))?;
            let file = file.with_context(|| format!("{} is not there", path.display()))?;
            files.push(OpenedFile { path, file });
        }
        Ok(Opened { files, server_lock })
    }

    /// Checks that every name still leads to the open file; otherwise returns what is wrong.
    pub fn check(&self) -> Result<(), String> {
        for opened in &self.files {
            let path = opened.path.display();
            match file_at(&opened.path) {
                Ok(Some(file)) if file == opened.file => {}
                Ok(Some(_)) => {
                    return Err(format!(
                        "{path} is not the file that this server has open: it was replaced while the server ran; \
                         stop every server before you restore or move the files of a store"
                    ));
                }
                Ok(None) => {
                    return Err(format!(
                        "{path} is gone: it was deleted or moved while this server has it open; \
                         put it back where it was, with the files beside it"
                    ));
                }
                // Says nothing about the file.
                Err(error) => tracing::debug!(%error, %path, "cannot look at a file of the store"),
            }
        }
        self.server_lock.keep()
    }
}
