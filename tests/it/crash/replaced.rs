//! Store files replaced, moved or deleted under a running server: later writes would be lost, so it answers no 201 and
//! ends.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support::client::{Answer, Request, http, post};
use crate::support::process::{Process, orderly};
use crate::support::small_disk::SmallDisk;

/// Keeps the data in its own folder.
fn server(folder: &Path) -> Command {
    let mut command = orderly(folder);
    let url = format!("sqlite:{}", data(folder).join("orderly.db").display());
    command.env("DATABASE_URL", url).env("ORDERLY_LEASE", "3s");
    command
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

async fn place(server: &Process, key: &str) -> Answer {
    let request = Request {
        key: key.to_owned(),
        user_id: 1,
        cents: 1,
    };
    post(&http(), &server.url, &request).await
}

/// Faults, and the file name that the server must report.
const FAULTS: [(&str, &str); 6] = [
    ("restored by copy", "orderly.db"),
    ("folder renamed", "orderly.db"),
    ("database deleted", "orderly.db"),
    ("log deleted", "orderly.db-wal"),
    ("log replaced", "orderly.db-wal"),
    ("index deleted", "orderly.db-shm"),
];

fn carry_out(fault: &str, data: &Path) {
    let file = |name: &str| data.join(name);
    match fault {
        "restored by copy" => {
            fs::copy(file("orderly.db"), file("copy")).unwrap();
            fs::rename(file("copy"), file("orderly.db")).unwrap();
        }
        "folder renamed" => fs::rename(data, data.with_file_name("moved")).unwrap(),
        "database deleted" => fs::remove_file(file("orderly.db")).unwrap(),
        "log deleted" => fs::remove_file(file("orderly.db-wal")).unwrap(),
        "log replaced" => {
            fs::write(file("new"), "").unwrap();
            fs::rename(file("new"), file("orderly.db-wal")).unwrap();
        }
        "index deleted" => fs::remove_file(file("orderly.db-shm")).unwrap(),
        other => panic!("{other} is not a fault"),
    }
}

/// Issue 13, point 6a.
#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_acknowledged_after_a_store_file_is_replaced() {
    for (fault, name) in FAULTS {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Process::start(server(folder.path())).await;
        assert!(matches!(place(&server, "before").await, Answer::Created(_)));
        carry_out(fault, &data(folder.path()));
        let after = place(&server, "after").await;
        assert!(!matches!(after, Answer::Created(_)), "{fault}: {after:?}");
        assert_eq!(server.ended().await.code(), Some(1), "{fault}");
        assert!(
            server.has_logged(&format!("data/{name} is")),
            "{fault}: names {name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_notices_replaced_files_at_its_next_heartbeat() {
    for (fault, _) in FAULTS {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Process::start(server(folder.path())).await;
        carry_out(fault, &data(folder.path()));
        assert_eq!(server.ended().await.code(), Some(1), "{fault}");
        assert!(server.has_logged("the store failed"), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_mounted_over_the_data_ends_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::start(server(folder.path())).await;
    assert!(matches!(place(&server, "before").await, Answer::Created(_)));
    let Some(_disk) = SmallDisk::mount_over(data(folder.path())).await else {
        return;
    };
    let after = place(&server, "after").await;
    assert!(!matches!(after, Answer::Created(_)), "{after:?}");
    assert_eq!(server.ended().await.code(), Some(1));
    assert!(server.has_logged("data/orderly.db is gone"));
    assert_eq!(
        fs::read_dir(data(folder.path())).unwrap().count(),
        0,
        "files were created in the volume"
    );
}

/// The restored file and a foreign log beside it stay unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_leaves_a_restored_store_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path());
    let mut command = server(folder.path());
    // Only the stop checks the file.
    command.env("ORDERLY_LEASE", "1h");
    let server = Process::start(command).await;
    assert!(matches!(place(&server, "before").await, Answer::Created(_)));
    carry_out("restored by copy", &data);
    fs::write(data.join("new"), "another log").unwrap();
    fs::rename(data.join("new"), data.join("orderly.db-wal")).unwrap();
    let restored = fs::read(data.join("orderly.db")).unwrap();
    assert_eq!(server.terminate().await, Some(1));
    assert_eq!(fs::read(data.join("orderly.db")).unwrap(), restored);
    assert_eq!(fs::read(data.join("orderly.db-wal")).unwrap(), b"another log");
}
