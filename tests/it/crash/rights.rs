//! Stored data and logs are accessible to their owner only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::process::{Process, orderly};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

/// Collects the modes of everything under a folder except links, whose modes mean nothing.
fn modes_under(folder: &Path, found: &mut Vec<(String, u32)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        found.push((name, mode(&entry.path())));
        if kind.is_dir() {
            modes_under(&entry.path(), found);
        }
    }
}

/// Issue 13, point 30.
#[tokio::test(flavor = "multi_thread")]
async fn folders_and_files_are_readable_by_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let probe = folder.path().join("probe");
    fs::write(&probe, "").unwrap();
    assert_ne!(mode(&probe) & 0o077, 0, "the umask must be loose for this test");
    fs::remove_file(&probe).unwrap();
    let mut command = orderly(folder.path());
    let url = format!("sqlite:{}", folder.path().join("a/b/orderly.db").display());
    command.env("DATABASE_URL", url);
    let server = Process::start(command).await;
    let mut found = Vec::new();
    modes_under(folder.path(), &mut found);
    assert_eq!(server.terminate().await, Some(0));
    let folders = ["a", "b", "logs"];
    for expected in [
        "orderly.db",
        "orderly.db-wal",
        "orderly.db-shm",
        "orderly.db.lock",
    ]
    .iter()
    .chain(&folders)
    {
        assert!(
            found.iter().any(|(name, _)| name == expected),
            "{expected} in {found:?}"
        );
    }
    assert!(
        found.iter().any(|(name, _)| name.starts_with("app.")),
        "{found:?}"
    );
    found.retain(|(name, mode)| {
        let expected = if folders.contains(&&**name) { 0o700 } else { 0o600 };
        *mode != expected
    });
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_file_readable_by_others_is_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let first = Process::start(orderly(folder.path())).await;
    assert!(!first.has_logged("open to other users"));
    assert_eq!(first.terminate().await, Some(0));
    let file = folder.path().join("orderly.db");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let second = Process::start(orderly(folder.path())).await;
    assert!(second.has_logged("orderly.db is open to other users of this machine (mode 640)"));
    assert_eq!(mode(&file), 0o640, "the mode changed");
    assert_eq!(second.terminate().await, Some(0));
}
