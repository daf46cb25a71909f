//! Faults planted for real: the first line of `orderly doctor` names the cause and what to do. `cargo xtask soak faults` plants
//! all of them, an ordinary run those that take seconds.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::in_full;
use crate::support::client::http;
use crate::support::postgres::{self, Options, Server};
use crate::support::process::{Process, orderly};
use crate::support::required;

mod alerts;
mod database;
mod flow;
mod machine;
mod service;

/// The doctor's limit with a slack of five, and the start of its process.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// Maximum time until the rules, some of which wait for minutes, name a fault.
const PATIENCE: Duration = Duration::from_mins(7);
/// Maximum time for the faults of an ordinary run.
const PATIENCE_OF_A_SLICE: Duration = Duration::from_mins(1);

/// Faults planted at the same time.
const AT_ONCE: usize = 4;
/// Looks at a healthy shop, with orders placed before each.
const ROUNDS: usize = 5;

/// A fault: its name, whether an ordinary run plants it, and how.
type Fault = (&'static str, bool, fn() -> LocalBoxFuture<'static, ()>);

macro_rules! faults {
    ($($module:ident::$name:ident $(, $slice:ident)?;)+) => {
        &[$((stringify!($name), faults!(@slice $($slice)?), || $module::$name().boxed_local()),)+]
    };
    (@slice) => { false };
    (@slice quick) => { true };
}

const FAULTS: &[Fault] = faults! {
    flow::the_queue_is_paused, quick;
    flow::no_node_runs, quick;
    flow::no_worker_asks, quick;
    flow::workers_have_a_wrong_key;
    flow::all_slots_hang, quick;
    flow::too_few_slots;
    flow::the_rate_limit_is_too_low;
    flow::a_failed_order_blocks_its_user, quick;
    flow::an_order_in_backoff_blocks_its_user;
    flow::a_node_is_frozen;
    flow::a_node_has_another_processor, quick;
    flow::a_node_has_another_ordering, quick;
    flow::workers_fall_silent;
    flow::the_port_is_taken, quick;
    service::the_service_is_down, quick;
    service::the_service_hangs;
    service::the_service_answers_401, quick;
    service::the_service_answers_503_with_a_reason, quick;
    service::one_kind_of_item_fails, quick;
    service::the_service_never_calls_back;
    service::the_service_speaks_no_tls, quick;
    database::the_password_is_wrong, quick;
    database::the_server_is_away, quick;
    database::the_server_hangs;
    database::a_right_is_missing, quick;
    database::no_connection_is_free, quick;
    database::the_database_takes_no_writes, quick;
    database::a_session_holds_an_order, quick;
    database::the_next_orders_are_locked;
    database::a_table_is_locked, quick;
    database::the_schema_is_newer, quick;
    database::the_schema_is_missing_and_migration_is_off, quick;
    database::the_file_is_locked, quick;
    database::the_file_is_no_database, quick;
    database::the_disk_is_full;
    database::the_password_is_changed;
    machine::the_disk_is_filling;
    machine::the_disk_of_the_log_is_full;
    machine::the_log_folder_is_gone, quick;
    machine::a_clock_is_wrong, quick;
    machine::clients_hold_all_connections, quick;
    machine::another_server_has_the_file, quick;
    machine::the_pooler_is_exhausted;
    machine::the_certificate_of_the_database_has_another_name;
    machine::a_snapshot_is_held;
    machine::the_certificate_of_the_service_is_of_nobody_known, quick;
    machine::the_certificate_of_the_service_ends_soon, quick;
    machine::the_service_speaks_tls_only, quick;
    machine::an_order_crashes_the_service;
};

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_the_cause_of_each_planted_fault() {
    let planted = FAULTS.iter().filter(|(_, quick, _)| *quick || in_full());
    let trials = planted.map(|(name, _, plant)| async move {
        let trial = std::panic::AssertUnwindSafe(plant()).catch_unwind();
        (*name, trial.await.is_ok())
    });
    let missed: Vec<&str> = stream::iter(trials)
        .buffer_unordered(AT_ONCE)
        .filter_map(async |(name, is_named)| (!is_named).then_some(name))
        .collect()
        .await;
    assert_eq!(missed, [""; 0], "the reasons are above");
}

/// Places orders while it asks the doctor again and again, and once more when they are done.
async fn assert_healthy(settings: &[(&'static str, &str)]) {
    let shop = Shop::new(settings);
    let node = shop.node().await;
    for round in 0..=ROUNDS {
        if round < ROUNDS {
            place_all(&node, (1..=20).map(order_of)).await;
        }
        let port = node.url.rsplit(':').next().expect("a URL has a port");
        let mut command = shop.command(&[("PORT", port)]);
        let output = command.args(["doctor", "--json"]).output().await;
        let output = output.expect("the doctor can be run");
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let mut checks = report["checks"].as_array().expect("checks").iter();
        assert!(checks.all(|check| check["state"] == "ok"), "{report:#}");
        assert_eq!(output.status.code(), Some(0), "{report:#}");
    }
    let healthy = shop.healthy.get().map(|metrics| &**metrics);
    alerts::assert_silent(&node.url, healthy).await;
    assert_eq!(node.terminate().await, Some(0));
}

/// The control of the faults: without one nothing is found, on either store.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_nothing_in_a_healthy_shop_idle_or_under_load() {
    assert_healthy(&[("ORDERLY_SIMULATED_SPEED", "10")]).await;
    if required("PostgreSQL", postgres::is_installed()) {
        let database = durable().await.create_database().await;
        assert_healthy(&[
            ("ORDERLY_SIMULATED_SPEED", "10"),
            ("DATABASE_URL", &database.url()),
        ])
        .await;
    }
}

/// A shop: a folder with the settings of its node and of the commands beside it.
struct Shop {
    folder: TempDir,
    settings: Vec<(&'static str, String)>,
    /// Metrics of the first node after its start.
    healthy: OnceLock<String>,
}

impl Shop {
    fn new(settings: &[(&'static str, &str)]) -> Shop {
        Shop {
            folder: tempfile::tempdir().expect("a folder can be made"),
            settings: settings
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
            healthy: OnceLock::new(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, settings: &[(&'static str, &str)]) -> Command {
        let mut command = orderly(self.path());
        command.envs(self.settings.iter().map(|(name, value)| (*name, value.as_str())));
        command.envs(settings.iter().copied());
        command
    }

    async fn node(&self) -> Process {
        self.node_with(&[]).await
    }

    async fn node_with(&self, settings: &[(&'static str, &str)]) -> Process {
        let node = Process::start(self.command(settings)).await;
        if let Some(metrics) = alerts::scrape(&node.url).await {
            self.healthy.get_or_init(|| metrics);
        }
        node
    }

    /// Waits until the first line of the doctor is this check, and asserts that it holds these words.
    async fn is_named(&self, node: Option<&Process>, check: &str, words: &[&str]) {
        let port = node.map_or("1", |node| node.url.rsplit(':').next().expect("a URL has a port"));
        let patience = if in_full() { PATIENCE } else { PATIENCE_OF_A_SLICE };
        let began = Instant::now();
        loop {
            let mut command = self.command(&[("PORT", port)]);
            command.args(["doctor", "--json"]);
            let asked = Instant::now();
            let output = command.output().await.expect("the doctor can be run");
            let took = asked.elapsed();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let report: Value =
                serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error} in {said}"));
            let first = &report["checks"][0];
            let text = first.to_string();
            let is_named = first["name"] == check && words.iter().all(|word| text.contains(word));
            if !is_named && began.elapsed() < patience {
                // Rules wait for some seconds; the next look takes a process.
                continue;
            }
            assert_eq!(first["name"], check, "{report:#}");
            assert_eq!(output.status.code(), Some(1), "{report:#}");
            for word in words {
                assert!(text.contains(word), "{word} is not in {text}");
            }
            assert!(took < ANSWER_TIME_MAX, "{check}: the doctor took {took:?}");
            println!("{check}: {text}");
            let url = node.map(|node| &*node.url);
            alerts::assert_fires(check, url, self.healthy.get().map(|metrics| &**metrics)).await;
            return;
        }
    }
}

/// Settings of a server that keeps what it confirms: the doctor would name any other first.
fn options() -> Options {
    Options::default().setting("fsync", "on")
}

/// Such a server, shared by the faults that harm none.
async fn durable() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER.get_or_init(|| Server::start(options())).await
}

/// Places an order and returns the status of the answer.
async fn place(node: &Process, order: Value) -> u16 {
    let url = format!("{}/orders", node.url);
    let answer = http().post(url).json(&order).send().await;
    answer.expect("the node answers").status().as_u16()
}

fn order_of(user_id: u64) -> Value {
    json!({"user_id": user_id, "item_ids": [101], "total_amount": 1})
}

fn order_named(reference: &str) -> Value {
    json!({"user_id": 1, "item_ids": [101], "total_amount": 1, "reference": reference})
}

async fn place_all(node: &Process, orders: impl IntoIterator<Item = Value>) {
    for order in orders {
        assert_eq!(place(node, order).await, 201);
    }
}
