//! Standard tools on the OpenAPI document. Schemathesis sends valid and invalid requests, and generated clients in
//! Python and TypeScript place, read, explain and complete an order. `cargo xtask test` installs the tools under
//! `target`, in the versions pinned beside the scripts.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::client::http;
use crate::support::process::{Process, orderly};
use crate::support::required;

/// Per operation and phase: about 1,500 requests in half a minute.
const EXAMPLES: &str = "10";
const SEED: &str = "20261129";

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients")
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients")
}

fn python(program: &str) -> PathBuf {
    tools().join("python/bin").join(program)
}

fn node(program: &str) -> PathBuf {
    tools().join("node_modules/.bin").join(program)
}

/// A server whose orders go to external workers, so that every route has something to do.
async fn server(folder: &Path) -> Process {
    let mut command = orderly(folder);
    command.env("ORDERLY_PROCESSOR", "pull");
    Process::start(command).await
}

/// Every machine installs the same packages, from its own registry.
#[test]
fn the_lock_file_pins_every_version_and_names_no_registry() {
    let lock: Value = serde_json::from_str(include_str!("clients/package-lock.json")).unwrap();
    let packages = lock["packages"].as_object().unwrap();
    assert!(packages.len() > 20, "the lock file lists transitive packages");
    for (path, package) in packages.iter().filter(|(path, _)| !path.is_empty()) {
        assert!(
            package["version"].is_string() && package["integrity"].is_string(),
            "{path}"
        );
        assert!(package["resolved"].is_null(), "{path}");
    }
    let named: Value = serde_json::from_str(include_str!("clients/package.json")).unwrap();
    assert_eq!(packages[""]["dependencies"], named["dependencies"]);
}

/// Runs a program that must succeed and returns its output.
async fn run(command: &mut Command) -> String {
    let output = command.kill_on_drop(true).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text.into_owned()
}

/// Saves the server's document to a file.
async fn document(server: &Process, folder: &Path) -> PathBuf {
    let answer = http()
        .get(format!("{}/openapi.json", server.url))
        .send()
        .await
        .unwrap();
    let file = folder.join("openapi.json");
    std::fs::write(&file, answer.text().await.unwrap()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    if !required("Schemathesis", python("st").exists()) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let server = server(folder.path()).await;
    let document = format!("{}/openapi.json", server.url);
    let arguments = ["--checks", "all", "--max-examples", EXAMPLES, "--seed", SEED];
    let text = run(Command::new(python("st"))
        .arg("--config-file")
        .arg(scripts().join("schemathesis.toml"))
        .args(["run", &document])
        .args(arguments)
        .args(["--continue-on-failure", "--no-color"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", scripts())
        .current_dir(folder.path()))
    .await;
    // All operations were tried.
    let document = serde_json::to_value(orderly::http::document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations: usize = paths.values().map(|item| item.as_object().unwrap().len()).sum();
    // Schemathesis does not test the route it reads the document from.
    assert!(text.contains(&format!("Tested: {}", operations - 1)), "{text}");
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_in_python_completes_an_order() {
    if !required("openapi-python-client", python("openapi-python-client").exists()) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let server = server(folder.path()).await;
    let document = document(&server, folder.path()).await;
    let path = std::env::join_paths(
        [python("")]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let text = run(Command::new(python("openapi-python-client"))
        .args(["generate", "--meta", "none", "--path"])
        .arg(document)
        .arg("--output-path")
        .arg(folder.path().join("orderly_client"))
        .env("PATH", path.unwrap()))
    .await;
    // The generator supports JSON only, so batches of lines are the one expected warning.
    assert!(
        text.contains("Unsupported content type application/x-ndjson"),
        "{text}"
    );
    assert_eq!(text.matches("WARNING").count(), 1, "{text}");
    assert!(!text.contains("Unable to"), "{text}");
    let text = run(Command::new(python("python"))
        .arg(scripts().join("shop.py"))
        .arg(&server.url)
        .env("PYTHONPATH", folder.path())
        .env("PYTHONDONTWRITEBYTECODE", "1"))
    .await;
    assert_eq!(text.trim(), "done");
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_in_typescript_completes_an_order() {
    if !required("openapi-typescript", node("openapi-typescript").exists()) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let server = server(folder.path()).await;
    let document = document(&server, folder.path()).await;
    let project = folder.path().join("client");
    std::fs::create_dir(&project).unwrap();
    std::os::unix::fs::symlink(tools().join("node_modules"), project.join("node_modules")).unwrap();
    std::fs::write(project.join("package.json"), r#"{"type":"module"}"#).unwrap();
    std::fs::copy(scripts().join("shop.ts"), project.join("shop.ts")).unwrap();
    let types = project.join("api.ts");
    run(Command::new(node("openapi-typescript"))
        .arg(document)
        .arg("-o")
        .arg(types))
    .await;
    // The script's use of every response type is type-checked.
    let arguments = [
        "--strict",
        "--noUncheckedIndexedAccess",
        "--target",
        "es2022",
        "--module",
        "nodenext",
    ];
    run(Command::new(node("tsc"))
        .args(arguments)
        .args(["--skipLibCheck", "shop.ts"])
        .current_dir(&project))
    .await;
    let text = run(Command::new("node")
        .args(["shop.js", &server.url])
        .current_dir(&project))
    .await;
    assert_eq!(text.trim(), "done");
    assert_eq!(server.terminate().await, Some(0));
}
