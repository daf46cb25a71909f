//! Detects that the files of a running server were replaced, moved or deleted. The server would keep writing to the old files,
//! which no client would ever read again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::files::{FileId, file_at, wal_and_shm};
use super::lock::ServerLock;

/// The files that a server has open.
pub(super) struct OpenFiles {
    files: Vec<OpenFile>,
    server_lock: Arc<ServerLock>,
}

struct OpenFile {
    path: PathBuf,
    file: FileId,
}

impl OpenFiles {
    /// Identifies the files. `path` is the configured path; a connection that has read the database must be open.
    pub fn at(path: &Path, server_lock: Arc<ServerLock>) -> anyhow::Result<OpenFiles> {
        let [wal, shm] = wal_and_shm(server_lock.real_path());
        let mut files = Vec::new();
        for path in [path.to_owned(), wal, shm] {
            let file = file_at(&path).with_context(|| format!("check {}", path.display()))?;
            let file = file.with_context(|| format!("{} does not exist", path.display()))?;
            files.push(OpenFile { path, file });
        }
        Ok(OpenFiles { files, server_lock })
    }

    /// Checks that every path still leads to the open file and that the server lock is held. Fails with the finding.
    pub fn check(&self) -> Result<(), String> {
        for open in &self.files {
            let path = open.path.display();
            match file_at(&open.path) {
                Ok(Some(file)) if file == open.file => {}
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
                // Proves nothing about the file.
                Err(error) => tracing::debug!(%error, %path, "cannot check a file of the store"),
            }
        }
        self.server_lock.ensure_held()
    }
}
