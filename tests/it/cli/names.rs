//! Settings that are almost right: trimmed, refused, or answered with a suggestion.

use super::{command, run};
use crate::support::process::{Process, orderly};

#[tokio::test(flavor = "multi_thread")]
async fn a_trailing_newline_in_a_url_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let mut start = orderly(folder.path());
    start.env("DATABASE_URL", format!("sqlite:{}\n", path.display()));
    let server = Process::start(start).await;
    assert_eq!(server.terminate().await, Some(0));
    assert!(path.exists(), "the file name has no newline");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_an_unexpanded_prefix_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (url, because) in [
        ("sqlite:~/orders.db", "only a shell expands"),
        ("sqlite:data/", "names a folder"),
        ("sqlite:da\nta/orders.db", "control character"),
    ] {
        for line in ["serve", "verify", "migrate"] {
            let mut command = command(folder.path(), line);
            command.env("DATABASE_URL", url);
            run(command).await.assert_failed(78, because);
        }
    }
    let from = run(command(
        folder.path(),
        "copy --from sqlite:~/x.db --to postgres://h/d",
    ))
    .await;
    from.assert_failed(78, "only a shell expands");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misnamed_store_file_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    for line in ["serve", "verify", "migrate"] {
        let mut command = command(folder.path(), line);
        command.env_remove("DATABASE_URL");
        command.env("ORDERLY_DATABASE_URL", "postgres://host/db");
        run(command)
            .await
            .assert_failed(78, "the store is named by DATABASE_URL");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_host_setting_never_opens_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut start = orderly(folder.path());
    start.env("ORDERLY_HOST", "0.0.0.0");
    let server = Process::start(start).await;
    assert!(server.has_logged("ORDERLY_HOST (from the environment) is not a setting, did you mean HOST?"));
    assert!(!server.has_logged("ORDERLY_OPEN"));
    assert_eq!(server.terminate().await, Some(0));
    let output = run(command(folder.path(), "serve --opn")).await;
    output.assert_failed(2, "--opn");
    assert!(!output.stderr.contains("'--open"), "{}", output.stderr);
}

/// `tail` connects to a closed port and reports the address it tried.
#[tokio::test(flavor = "multi_thread")]
async fn commands_use_the_port_of_the_server_with_the_same_settings() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(orderly(folder.path())).await;
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    let mut list = command(folder.path(), "orders list --json");
    list.env("PORT", &port);
    run(list).await.json();
    std::fs::write(
        folder.path().join(".env"),
        format!("COMPOSE_PROJECT\nPORT=1\nPORT={port}\n"),
    )
    .unwrap();
    let mut queue = command(folder.path(), "queue --json");
    queue.env_remove("PORT");
    run(queue).await.json();
    let mut status = command(folder.path(), "status");
    status.env("PORT", "1");
    run(status)
        .await
        .assert_failed(1, "no answer from http://127.0.0.1:1 ");
    assert_eq!(server.terminate().await, Some(0));
}
