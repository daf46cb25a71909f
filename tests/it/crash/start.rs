//! Starts that are refused with an exit code and a reason.

use crate::support::process::{Process, orderly, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = Process::start(orderly(folder.path())).await;
    let (exit, text) = run(folder.path(), &["serve"]).await;
    assert_eq!(exit, Some(1));
    assert!(text.contains("in use by another orderly process"), "{text}");
    assert_eq!(first.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        Process::start(orderly(folder.path())).await.terminate().await,
        Some(0)
    );
    let file = rusqlite::Connection::open(folder.path().join("orderly.db")).unwrap();
    file.execute(
        "insert into migrations (number, name, checksum) values (99, 'later', '')",
        [],
    )
    .unwrap();
    drop(file);
    let (exit, text) = run(folder.path(), &["serve"]).await;
    assert_eq!(exit, Some(78), "{text}");
    assert!(text.contains("newer"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_never_served() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("orderly.db"),
        "this is not a database, but it is long enough",
    )
    .unwrap();
    let (exit, text) = run(folder.path(), &["serve"]).await;
    assert_eq!(exit, Some(1), "{text}");
    assert!(text.contains("not a database"), "{text}");
}
