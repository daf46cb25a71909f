//! Control of the crash test: the same checks must detect a server that answers before it stores.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orderly::config::{Config, Database, ProcessorChoice};
use orderly::metrics::Metrics;
use orderly::processor::simulated::Simulated;
use orderly::retry::RetryPolicy;
use orderly::serve::Server;
use orderly::store::clock::system_clock;
use orderly::store::open::{OpenOptions, open};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::killed::{Ending, Rounds, busy, end_again_and_again};
use super::load::seed;
use crate::support::answers_early::AnswersEarly;
use crate::support::config::config;
use crate::support::layers::layered;
use crate::support::process::{configure, orderly};

/// Time an acknowledged order is only in memory: long enough to accept many.
const DELAY: Duration = Duration::from_millis(200);
/// Set only in the child process: the database it serves.
const SERVE: &str = "ORDERLY_TEST_CONTROL_SERVE";
const ROUNDS: usize = 3;

/// Does nothing in an ordinary run. In the child process of the test below it is the server.
#[tokio::test(flavor = "multi_thread")]
async fn serve_as_child_process_of_the_control() {
    let Ok(path) = std::env::var(SERVE) else { return };
    let database = Database::Sqlite(PathBuf::from(path));
    let metrics = Metrics::new();
    let options = OpenOptions {
        peers: None,
        migrate: true,
        pending_max: None,
        metrics: metrics.clone(),
        clock: system_clock(),
        ordering: None,
    };
    let inner = open(&database, options).await.unwrap();
    let early = AnswersEarly::after(DELAY, &inner).await;
    let processor = Arc::new(Simulated {
        speed: 100.0,
        failure_rate: 0.0,
    });
    let server = Server::start(&busy_config(), layered(inner, early), processor, metrics)
        .await
        .unwrap();
    // Before the process id is known to others.
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    println!(
        "{}",
        serde_json::json!({"address": server.addresses()[0].to_string()})
    );
    terminated.recv().await;
    server
        .stop(Duration::from_secs(10), std::future::pending::<()>())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crash_test_detects_a_store_that_answers_early() {
    let wrong = ends_of_an_early_answerer(Ending::Killed).await;
    assert!(
        wrong.iter().any(|finding| finding.starts_with("lost")),
        "{wrong:#?}"
    );
}

/// So the test above detects the crash, not the control itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_answers_early_loses_nothing_without_a_crash() {
    let wrong = ends_of_an_early_answerer(Ending::Stopped).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn ends_of_an_early_answerer(ending: Ending) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let rounds = Rounds {
        ending,
        count: ROUNDS,
        folder: folder.path(),
        seed: seed(),
    };
    let server = || {
        let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
        configure(&mut command, folder.path());
        command
            .args([
                "crash::control::serve_as_child_process_of_the_control",
                "--exact",
                "--nocapture",
            ])
            .env(SERVE, folder.path().join("orderly.db"));
        command
    };
    end_again_and_again(rounds, server, busy(orderly(folder.path()))).await
}

/// Fast, and never poisons an order because of crashes.
fn busy_config() -> Config {
    Config {
        concurrency: 100,
        connections_max: 1000,
        retry: RetryPolicy {
            attempts_max: 5,
            base: Duration::from_millis(20),
            cap: Duration::from_secs(1),
        },
        crashes_max: 1000,
        processor: ProcessorChoice::Simulated {
            speed: 100.0,
            failure_rate: 0.0,
        },
        ..config()
    }
}
