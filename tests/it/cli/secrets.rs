//! Secrets never appear in results, messages or logs, even when something fails.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{CommandOutput, command, run};
use crate::fulfilment::receiver::{Reaction, Receiver, answer};
use crate::support::client::http;
use crate::support::process::{Process, orderly};

const CANARY: &str = "canary-9f8e7d6c5b4a";
const WRONG: &str = "parrot-1a2b3c4d5e6f";

/// A signing secret containing the canary, as configured.
const CANARY_KEY: &str = "Y2FuYXJ5LTlmOGU3ZDZjNWI0YS1vZi1kZWxpdmVyaWVz";
/// `fixture` with the canary as its password, as sent.
const CANARY_BASIC: &str = "c2hvcDpjYW5hcnktOWY4ZTdkNmM1YjRh";
const ALL: [&str; 4] = [CANARY, WRONG, CANARY_KEY, CANARY_BASIC];

/// Settings of a server that logs everything and has the canary as its key.
const SETTINGS: [(&str, &str); 2] = [("ORDERLY_API_KEY", CANARY), ("RUST_LOG", "trace")];

impl CommandOutput {
    #[track_caller]
    fn assert_no_secret(&self, line: &str) {
        for secret in ALL {
            assert!(!self.stdout.contains(secret), "{line}: {}", self.stdout);
            assert!(!self.stderr.contains(secret), "{line}: {}", self.stderr);
        }
    }
}

/// Asserts that no text file below the folder contains a secret, logs above all.
fn assert_no_file_contains_secrets(folder: &Path, logs_expected: usize) {
    let mut logs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_no_file_contains_secrets(&path, 0);
            continue;
        }
        let text = std::fs::read(&path).unwrap();
        logs += usize::from(!text.is_empty());
        for secret in ALL {
            let found = text
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{} contains {secret}", path.display());
        }
    }
    assert!(logs >= logs_expected, "{} has too few logs", folder.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_key_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let mut start = orderly(folder.path());
    start.envs(SETTINGS);
    let server = Process::start(start).await;
    let orders = format!("{}/orders", server.url);
    for (key, status) in [(CANARY, StatusCode::OK), (WRONG, StatusCode::UNAUTHORIZED)] {
        let answer = http().get(&orders).bearer_auth(key).send().await.unwrap();
        assert_eq!(answer.status(), status);
        let text = answer.text().await.unwrap();
        assert!(!text.contains(CANARY) && !text.contains(WRONG), "{text}");
    }
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    for (line, exit) in [
        ("orders list", 0),
        ("orders get 7", 1),
        ("doctor", 0),
        ("doctor --json", 0),
        ("verify", 0),
        ("serve", 1),
        ("serve --concurrency 0", 78),
        ("serve --help", 0),
        ("openapi", 0),
    ] {
        let mut command = command(folder.path(), line);
        command
            .envs(SETTINGS)
            .env("ORDERLY_URL", &server.url)
            .env("PORT", &port);
        let output = run(command).await;
        assert_eq!(
            output.exit,
            Some(exit),
            "{line}: {}{}",
            output.stdout,
            output.stderr
        );
        output.assert_no_secret(line);
    }
    let mut stranger = command(folder.path(), "orders list");
    stranger
        .env("ORDERLY_API_KEY", WRONG)
        .env("ORDERLY_URL", &server.url);
    let output = run(stranger).await;
    output.assert_failed(1, "ORDERLY_API_KEY");
    output.assert_no_secret("a stranger's list");
    assert!(!server.has_logged(CANARY) && !server.has_logged(WRONG));
    assert_eq!(server.terminate().await, Some(0));
    assert_no_file_contains_secrets(&folder.path().join("logs"), 1);
    assert_no_file_contains_secrets(folder.path(), 1);
}

/// Orders in every outcome, and invalid settings.
#[tokio::test(flavor = "multi_thread")]
async fn delivery_secrets_are_never_shown() {
    let receiver = Receiver::start().await;
    receiver.set_reactions(
        "fails",
        [
            answer(500, "", ""),
            Reaction::Reset,
            answer(302, "Location: /x\r\n", ""),
        ],
    );
    receiver.set_reactions("is refused", [answer(422, "", "no")]);
    let secret = format!("whsec_{CANARY_KEY}");
    let url = |host: &str| format!("http://shop:{CANARY}@{host}/{WRONG}?code={CANARY}&sig={WRONG}");
    let here = url(&receiver.address.to_string());
    let folder = tempfile::tempdir().unwrap();
    let configure = |command: &mut Command, url: &str, secret: &str| {
        command.envs([
            ("ORDERLY_PROCESSOR", "http"),
            ("ORDERLY_PROCESSOR_URL", url),
            ("ORDERLY_PROCESSOR_SECRET", secret),
            ("ORDERLY_RETRY_BASE", "0s"),
            ("RUST_LOG", "trace"),
        ]);
    };
    let mut start = orderly(folder.path());
    configure(&mut start, &here, &secret);
    let server = Process::start(start).await;
    for name in ["completes", "fails", "is refused"] {
        let order = json!({"user_id": 1, "item_ids": 1, "total_amount": 1, "reference": name});
        let sent = http()
            .post(format!("{}/orders", server.url))
            .json(&order)
            .send()
            .await;
        let order: Value = sent.unwrap().json().await.unwrap();
        let url = format!("{}/orders/{}", server.url, order["order_id"]);
        let ended = http().get(url).header("Prefer", "wait=60").send().await;
        let ended = ended.unwrap().text().await.unwrap();
        assert!(ended.contains("Completed") || ended.contains("422"), "{ended}");
        assert!(ALL.iter().all(|secret| !ended.contains(secret)), "{ended}");
    }
    let delivery = &receiver.deliveries()[0];
    assert!(
        delivery.header("authorization").ends_with(CANARY_BASIC)
            && !delivery.header("webhook-signature").is_empty()
    );
    assert!(ALL.iter().all(|secret| !server.has_logged(secret)));
    let address = format!("orders are processed by http://{}\"", receiver.address);
    assert!(
        server.has_logged(&address),
        "the processor is shown without its settings"
    );
    for (line, url, secret, exit) in [
        ("doctor", here.as_str(), secret.as_str(), 0),
        ("doctor --json", &here, &secret, 0),
        ("serve --port 1", &url("127.0.0.1:1/a b"), &secret, 78),
        ("serve --port 1", &url("127.0.0.1:x"), &secret, 78),
        ("serve --port 1", &format!("ftp://{CANARY}@host"), &secret, 78),
        ("serve --port 1", &here, &format!("{secret}="), 78),
        ("serve --port 1", &here, CANARY_KEY, 78),
        ("serve --help", &here, &secret, 0),
    ] {
        let mut command = command(folder.path(), line);
        configure(&mut command, url, secret);
        command.env("PORT", server.url.rsplit(':').next().unwrap());
        let output = run(command).await;
        assert_eq!(
            output.exit,
            Some(exit),
            "{line}: {}{}",
            output.stdout,
            output.stderr
        );
        output.assert_no_secret(line);
    }
    assert_eq!(server.terminate().await, Some(0));
    assert_no_file_contains_secrets(&folder.path().join("logs"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("key");
    std::fs::write(&file, format!("{CANARY}\n")).unwrap();
    let mut start = orderly(folder.path());
    start.env("ORDERLY_API_KEY_FILE", &file);
    let server = Process::start(start).await;
    let orders = format!("{}/orders", server.url);
    let admitted = http().get(&orders).bearer_auth(CANARY).send().await.unwrap();
    assert_eq!(admitted.status(), StatusCode::OK);
    let refused = http().get(&orders).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(server.terminate().await, Some(0));
    assert_no_file_contains_secrets(folder.path(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_key_file_does_not_disable_authentication() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    for text in ["", " \n"] {
        std::fs::write(&file, text).unwrap();
        let mut start = command(folder.path(), "serve --open");
        start.env("ORDERLY_API_KEY_FILE", &file);
        run(start).await.assert_failed(78, "ORDERLY_API_KEY_FILE");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_dot_env_is_taken_literally() {
    const KEY: &str = "pa$HOMEword-${PATH}-long-enough";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), format!("ORDERLY_API_KEY={KEY}\n")).unwrap();
    let server = Process::start(orderly(folder.path())).await;
    let orders = format!("{}/orders", server.url);
    let admitted = http().get(&orders).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(admitted.status(), StatusCode::OK);
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_in_urls_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let url = |scheme: &str| format!("{scheme}://shop:{CANARY}@127.0.0.1:1/orders");
    for (name, scheme, line, exit) in [
        ("DATABASE_URL", "mysql", "serve", 78),
        ("DATABASE_DIRECT_URL", "postgres", "doctor --json", 0),
        ("DATABASE_READ_URL", "postgres", "doctor --json", 1),
        ("DATABASE_READ_URL", "mysql", "serve", 78),
        // `orders` is no number of a database, and SQLite has no Redis.
        ("REDIS_URL", "redis", "doctor", 1),
        ("REDIS_URL", "rediss", "serve", 78),
        ("ORDERLY_URL", "http", "orders list", 1),
        ("ORDERLY_URL", "ftp", "orders list", 78),
    ] {
        let mut command = command(folder.path(), line);
        command.env(name, url(scheme));
        let output = run(command).await;
        assert_eq!(
            output.exit,
            Some(exit),
            "{name} {line}: {}{}",
            output.stdout,
            output.stderr
        );
        output.assert_no_secret(&format!("{name} {line}"));
    }
    for (name, url, line, exit) in [
        (
            "REDIS_URL",
            format!("redis://shop:{CANARY}@127.0.0.1:1/0"),
            "doctor",
            1,
        ),
        ("DATABASE_URL", format!("host=x password={CANARY}"), "doctor", 1),
        (
            "DATABASE_URL",
            format!("postgres://me:pa@{CANARY}@host/db"),
            "doctor",
            1,
        ),
        (
            "DATABASE_URL",
            format!("postgres://host/db?password=x@{CANARY}"),
            "doctor --json",
            1,
        ),
        (
            "DATABASE_URL",
            format!("postgres://me:{CANARY}@host/db?sslmode=maybe"),
            "doctor",
            1,
        ),
        (
            "DATABASE_DIRECT_URL",
            format!("postgres://me:{CANARY}#x@host/db"),
            "doctor",
            0,
        ),
        (
            "DATABASE_READ_URL",
            format!("postgres://me:{CANARY}#x@host/db"),
            "doctor",
            1,
        ),
        ("REDIS_URL", format!("rediss://me:hun#{CANARY}?x@h"), "doctor", 1),
        (
            "REDIS_URL",
            format!("rediss://me:hun#{CANARY}?x@h"),
            "doctor --json",
            1,
        ),
        ("REDIS_URL", CANARY.to_owned(), "doctor", 1),
        ("REDIS_URL", format!("redis://me:1?{CANARY}@h"), "doctor", 1),
    ] {
        let mut command = command(folder.path(), line);
        command.env(name, &url);
        let output = run(command).await;
        assert_eq!(
            output.exit,
            Some(exit),
            "{url} {line}: {}{}",
            output.stdout,
            output.stderr
        );
        assert!(
            output.stdout.contains(name),
            "the setting is not shown: {}",
            output.stdout
        );
        output.assert_no_secret(&format!("{url} {line}"));
    }
    let mut start = orderly(folder.path());
    start.env("DATABASE_DIRECT_URL", url("postgres"));
    start.env("RUST_LOG", "trace");
    let server = Process::start(start).await;
    assert!(server.has_logged("DATABASE_DIRECT_URL") && !server.has_logged(CANARY));
    assert_eq!(server.terminate().await, Some(0));
    assert_no_file_contains_secrets(folder.path(), 1);
}

/// Wherever the URL comes from: a file, a wrong setting, or the second of two URLs.
#[tokio::test(flavor = "multi_thread")]
async fn passwords_in_invalid_urls_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let good = format!("postgres://shop:{CANARY}@127.0.0.1:1/orders");
    for (database, direct) in [
        (format!("{good}?sslmode=maybe"), good.clone()),
        (format!("{good}?{CANARY}=x&port=0"), good.clone()),
        (format!("postgres://127.0.0.1:{CANARY}/orders"), good.clone()),
        (good.clone(), format!("{good}?connect_timeout=maybe")),
        (
            good.clone(),
            format!("postgres://shop:{WRONG}@{CANARY}@host/orders"),
        ),
        (
            good.clone(),
            format!("postgres://shop:{WRONG}%-{CANARY}@host/orders"),
        ),
    ] {
        for line in ["serve", "verify", "migrate"] {
            let mut command = command(folder.path(), line);
            command.env_remove("DATABASE_URL");
            for (name, url) in [
                ("DATABASE_URL_FILE", &database),
                ("DATABASE_DIRECT_URL_FILE", &direct),
            ] {
                let file = secrets.path().join(name);
                std::fs::write(&file, url).unwrap();
                command.env(name, file);
            }
            let output = run(command).await;
            output.assert_failed(78, "DATABASE_");
            output.assert_no_secret(&format!("{database} {direct} {line}"));
        }
    }
}
