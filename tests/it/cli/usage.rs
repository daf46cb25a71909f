//! Commands that need neither store nor server, and invalid command lines.

use serde_json::Value;

use super::{command, run};

#[tokio::test(flavor = "multi_thread")]
async fn invalid_usage_exits_with_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for line in [
        "sell",
        "--colour red",
        "serve --colour red",
        "serve --port",
        "serve extra",
        "orders get",
        "orders get one",
        "orders get 0",
        "orders retry",
        "orders retry 1 --failed",
        "orders list --status gone",
        "orders create",
        "orders create --user-id 1 --item-ids 1",
        "orders create --body - --user-id 1",
        "orders explain",
        "orders hold",
        "orders release x",
        "queue --status",
        "pause 5",
        "orders list --limit x",
        "tail --status gone",
        "tail --order me",
        "completions tcsh",
        "completions",
        "verify --port 1",
        "bench sell",
    ] {
        let output = run(command(folder.path(), line)).await;
        output.assert_failed(2, "error:");
        assert!(output.stderr.contains("--help"), "{line}: {}", output.stderr);
    }
    run(command(folder.path(), "orders"))
        .await
        .assert_failed(2, "Usage: orderly orders");
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing was created"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_command_or_flag_gets_a_suggestion() {
    let folder = tempfile::tempdir().unwrap();
    run(command(folder.path(), "verfy"))
        .await
        .assert_failed(2, "'verify'");
    run(command(folder.path(), "serve --concurency 1"))
        .await
        .assert_failed(2, "'--concurrency'");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_and_version_are_printed_to_stdout() {
    let folder = tempfile::tempdir().unwrap();
    for line in [
        "--help",
        "help",
        "serve --help",
        "orders --help",
        "orders retry --help",
        "orders create --help",
        "queue --help",
        "status --help",
        "tail --help",
        "doctor -h",
        "bench --help",
    ] {
        let output = run(command(folder.path(), line)).await;
        assert_eq!((output.exit, output.stderr.as_str()), (Some(0), ""), "{line}");
        assert!(
            output.stdout.contains("Usage: orderly"),
            "{line}: {}",
            output.stdout
        );
    }
    let version = run(command(folder.path(), "--version")).await;
    assert_eq!(
        version.stdout,
        concat!("orderly ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_is_printed_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let document: Value = run(command(folder.path(), "openapi")).await.json();
    assert_eq!(document, serde_json::to_value(orderly::http::document()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shell_gets_its_completions() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(command(folder.path(), &format!("completions {shell}"))).await;
        assert_eq!((output.exit, output.stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(
            output.stdout.contains("orderly") && output.stdout.contains("doctor"),
            "{shell}"
        );
    }
}
