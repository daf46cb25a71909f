//! SIGKILL: no acknowledged order is lost, none ends twice, and interrupted ones run again.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::watch;

use super::load::{Load, seed};
use crate::support::client::http;
use crate::support::process::{Process, orderly, run};

const ROUNDS: usize = 25;
const CLIENTS: usize = 8;
/// Number of acknowledged orders after which a round's server is killed.
const ACKNOWLEDGED: std::ops::Range<usize> = 1..250;

/// The way the servers of the rounds end.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// By SIGKILL.
    Killed,
    /// Clean stop by SIGTERM.
    Stopped,
}

/// A sequence of servers on the same folder.
pub struct Rounds<'f> {
    pub ending: Ending,
    pub count: usize,
    pub folder: &'f Path,
    pub seed: u64,
}

/// Ends servers under load repeatedly, then lets the `healed` one finish all orders and compares the clients' log with
/// its table. Returns the differences.
pub async fn end_again_and_again(
    rounds: Rounds<'_>,
    server: impl Fn() -> Command,
    healed: Command,
) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(rounds.seed);
    let mut load = Load::new(CLIENTS, rounds.seed);
    let mut wrong = Vec::new();
    for _ in 0..rounds.count {
        let victim = Process::start(server()).await;
        let target = rng.random_range(ACKNOWLEDGED);
        let (sender, mut reached) = watch::channel(0);
        let url = victim.url.clone();
        let end = async {
            // The load also ends before the target when the server is gone, which the comparison would show.
            let _ = reached.wait_for(|count| *count >= target).await;
            match rounds.ending {
                Ending::Killed => {
                    victim.kill().await;
                    None
                }
                Ending::Stopped => not_in_good_order("a stopped", victim.terminate().await),
            }
        };
        let ((), ended_badly) = tokio::join!(load.run(&url, usize::MAX, sender), end);
        wrong.extend(ended_badly);
    }
    let healed = Process::start(healed).await;
    let (sender, _) = watch::channel(0);
    load.run(&healed.url, CLIENTS, sender).await;
    wrong.extend(load.log.compare(&http(), &healed.url).await);
    println!(
        "{} servers {:?}, {} orders acknowledged, {} findings",
        rounds.count,
        rounds.ending,
        load.log.len(),
        wrong.len()
    );
    wrong.extend(not_in_good_order("the last", healed.terminate().await));
    let (exit, report) = run(rounds.folder, &["verify"]).await;
    if exit != Some(0) {
        wrong.push(format!("verify: {report}"));
    }
    wrong
}

fn not_in_good_order(which: &str, exit: Option<i32>) -> Option<String> {
    (exit != Some(0)).then(|| format!("{which} server ended with {exit:?}"))
}

/// Quick orders that sometimes fail, so that a kill meets every status.
pub fn busy(mut command: Command) -> Command {
    command.envs([
        ("ORDERLY_SIMULATED_SPEED", "100"),
        ("ORDERLY_SIMULATED_FAILURE_RATE", "0.1"),
        ("ORDERLY_RETRY_BASE", "20ms"),
        ("ORDERLY_MAX_CRASHES", "1000"),
        ("RUST_LOG", "info,orderly::worker=error"),
    ]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_under_load_loses_no_acknowledged_order() {
    let folder = tempfile::tempdir().unwrap();
    let rounds = Rounds {
        ending: Ending::Killed,
        count: ROUNDS,
        folder: folder.path(),
        seed: seed(),
    };
    let server = || busy(orderly(folder.path()));
    let wrong = end_again_and_again(rounds, server, server()).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_in_processing_at_a_kill_runs_again_after_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orderly(folder.path());
    command.env("ORDERLY_SIMULATED_SPEED", "0.001");
    let first = Process::start(command).await;
    let mut load = Load::new(1, 1);
    let (sender, _) = watch::channel(0);
    load.run(&first.url, 1, sender).await;
    started(&first.url, 1).await;
    first.kill().await;

    let mut command = orderly(folder.path());
    command
        .env("ORDERLY_SIMULATED_SPEED", "100")
        .env("ORDERLY_LEASE", "1h");
    let second = Process::start(command).await;
    let wrong = load.log.compare(&http(), &second.url).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    let history: Value = get(&format!("{}/orders/1/events", second.url)).await;
    let kinds: Vec<&str> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["accepted", "started", "lease_lost", "started", "completed"]
    );
    let order = get(&format!("{}/orders/1", second.url)).await;
    assert_eq!(order["attempts"], 1, "a crash was counted as an attempt");
    assert_eq!(second.terminate().await, Some(0));
}

/// Waits until the order is in processing.
async fn started(url: &str, id: i64) {
    loop {
        if get(&format!("{url}/orders/{id}")).await["status"] == "Processing" {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn get(url: &str) -> Value {
    let response = http().get(url).send().await.expect("the server answers");
    response.json().await.expect("answers are JSON")
}
