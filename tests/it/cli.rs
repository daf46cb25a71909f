//! Command line tests against the real program: output, exit codes and messages.

use std::cell::OnceCell;
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::client::{Answer, Request, http, post};
use crate::support::process::{Process, orderly};
use crate::support::until;

mod bench;
mod checks;
mod configuration;
mod copy;
mod first_start;
mod foreign_servers;
mod lost_log_lines;
mod names;
mod orders;
mod other_build;
mod queue;
mod request_log;
mod restored;
mod secrets;
mod signals;
mod tail;
mod usage;
mod yardsticks;

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// Exit code and output of a command.
struct CommandOutput {
    exit: Option<i32>,
    stdout: String,
    stderr: String,
}

impl CommandOutput {
    /// The JSON of a successful command, which writes nothing to stderr.
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(
            (self.exit, self.stderr.as_str()),
            (Some(0), ""),
            "{}",
            self.stdout
        );
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {}", self.stdout))
    }

    #[track_caller]
    fn assert_failed(&self, exit: i32, because: &str) {
        self.assert_ended(exit, because);
        assert_eq!(self.stdout, "", "a failed command prints no result");
    }

    /// Asserts how a server ended by itself. Its log is on stdout.
    #[track_caller]
    fn assert_ended(&self, exit: i32, because: &str) {
        assert_eq!(self.exit, Some(exit), "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(because), "{}", self.stderr);
    }
}

/// Runs a command of the program to its end.
async fn run(mut command: Command) -> CommandOutput {
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output
        .expect("a command ends in time")
        .expect("the program can be run");
    CommandOutput {
        exit: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("results are UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("messages are UTF-8"),
    }
}

fn command(folder: &Path, line: &str) -> Command {
    let mut command = orderly(folder);
    command.args(line.split_whitespace());
    command
}

/// A running server with its folder.
struct Fixture {
    server: Process,
    folder: TempDir,
}

impl Fixture {
    async fn open(settings: &[(&str, &str)]) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let mut command = orderly(folder.path());
        command.envs(settings.iter().copied());
        Fixture {
            server: Process::start(command).await,
            folder,
        }
    }

    /// Runs a command that talks to the server or to its store.
    async fn run(&self, line: &str) -> CommandOutput {
        let mut command = command(self.folder.path(), line);
        command.env("ORDERLY_URL", &self.server.url);
        run(command).await
    }

    async fn order(&self, user_id: u64) -> Value {
        let request = Request {
            key: format!("user {user_id}"),
            user_id,
            cents: 25_075,
        };
        // Retries on 503, as documented: nothing was stored. A shared store answers 503 until its first connections are
        // open.
        let (http, placed) = (http(), OnceCell::new());
        until("the order is accepted", async || {
            match post(&http, &self.server.url, &request).await {
                Answer::Created(order) => placed.set(order).is_ok(),
                Answer::Refused(StatusCode::SERVICE_UNAVAILABLE) => false,
                other => panic!("a good order was answered {other:?}"),
            }
        })
        .await;
        placed.into_inner().expect("the order was accepted")
    }

    /// Waits until the order is final and returns it.
    async fn ended(&self, id: u64) -> Value {
        let url = format!("{}/orders/{id}", self.server.url);
        let answer = http().get(url).header("Prefer", "wait=60").send().await;
        answer
            .expect("the server answers")
            .json()
            .await
            .expect("an order is JSON")
    }

    fn port(&self) -> &str {
        self.server
            .url
            .rsplit(':')
            .next()
            .expect("the address has a port")
    }

    async fn close(self) {
        assert_eq!(self.server.terminate().await, Some(0));
        let output = run(command(self.folder.path(), "verify")).await;
        assert_eq!(output.exit, Some(0), "{}{}", output.stdout, output.stderr);
    }
}
