//! Workers and servers are killed, and workers frozen and resumed, at random moments: every order is completed once, by
//! its current lease holder.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::process::Command;

use super::pull::{AcceptedResult, Fixture, THREADS, WorkerProcess, breaches};
use super::pull_examples::{has_python, in_python, in_rust};
use crate::crash::load::seed;
use crate::support::postgres::{self, Server, TestDatabase};
use crate::support::{required, until};

const WORKERS: usize = 3;
const FAULTS: usize = 15;
/// Number of orders accepted before each fault.
const ORDERS: usize = 12;
/// Number of results before the next fault: low enough that some orders are still being processed.
const RESULTS: std::ops::Range<usize> = 0..10;

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillWorker,
    KillServer,
    /// SIGSTOP until others have processed its orders, then SIGCONT.
    FreezeWorker,
}

impl Fault {
    fn any(rng: &mut StdRng) -> Fault {
        match rng.random_range(0..5) {
            0..2 => Fault::KillWorker,
            2..4 => Fault::KillServer,
            _ => Fault::FreezeWorker,
        }
    }
}

/// The first worker is a different program from the others.
async fn worker(index: usize) -> Command {
    let mut command = if index == 0 && has_python().await {
        in_python()
    } else {
        in_rust()
    };
    command.env("WORK_SECONDS", "0.02");
    command
}

/// All workers, including those that are gone.
struct Workers {
    at_work: Vec<WorkerProcess>,
    gone: Vec<WorkerProcess>,
}

impl Workers {
    fn results(&self) -> usize {
        self.at_work
            .iter()
            .chain(&self.gone)
            .map(WorkerProcess::lines)
            .sum()
    }

    fn taken(&self) -> Vec<AcceptedResult> {
        self.at_work
            .iter()
            .chain(&self.gone)
            .flat_map(WorkerProcess::taken)
            .collect()
    }
}

async fn live_through_faults(database: Option<TestDatabase>) {
    let mut rng = StdRng::seed_from_u64(seed());
    let mut fixture = Fixture::open(database).await;
    let mut workers = Workers {
        at_work: Vec::new(),
        gone: Vec::new(),
    };
    for index in 0..WORKERS {
        workers.at_work.push(fixture.start_worker(worker(index).await));
    }
    for _ in 0..FAULTS {
        let before = workers.results();
        fixture.accept(ORDERS, json!({})).await;
        let results = before + rng.random_range(RESULTS);
        until("some orders are completed", async || workers.results() >= results).await;
        let fault = Fault::any(&mut rng);
        let index = rng.random_range(0..WORKERS);
        println!("{fault:?} {index} after {results} results");
        match fault {
            Fault::KillWorker => {
                workers.at_work[index].kill().await;
                let next = fixture.start_worker(worker(index).await);
                workers
                    .gone
                    .push(std::mem::replace(&mut workers.at_work[index], next));
            }
            Fault::KillServer => fixture.kill_server().await,
            Fault::FreezeWorker => {
                workers.at_work[index].signal("STOP").await;
                fixture.all_ended().await;
                workers.at_work[index].signal("CONT").await;
            }
        }
    }
    fixture.all_ended().await;
    let threads = THREADS * WORKERS as u64;
    until("all workers wait", async || fixture.waiting().await == threads).await;
    for employee in &mut workers.at_work {
        assert_eq!(employee.terminate().await, Some(0));
    }
    let taken = workers.taken();
    println!("{} orders, {} results", fixture.orders.len(), taken.len());
    assert_eq!(breaches(&fixture, &taken).await, [""; 0]);
    let (exit, report) = fixture.close().await;
    assert_eq!(exit, Some(0), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_completes_once_despite_kills_on_sqlite() {
    live_through_faults(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_completes_once_despite_kills_on_postgresql() {
    if required("a private PostgreSQL", postgres::is_installed()) {
        let database = Server::shared().await.create_database().await;
        live_through_faults(Some(database)).await;
    }
}
