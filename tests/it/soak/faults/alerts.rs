//! The alert of each fault: `promtool` evaluates the rules of deploy/prometheus/alerts.yml on what a node's metrics were before and
//! are with the fault. A full run shows some of them to a real Prometheus as well.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::super::in_full;
use crate::support::client::http;
use crate::support::required;

/// Time until Prometheus has evaluated the rules with the longest `for` of those that it is shown.
const PROMETHEUS_PATIENCE: Duration = Duration::from_mins(5);

/// Alerts, one of which fires, by the check of `orderly doctor` that names the fault; without a node that answers, the node is what is down.
const ALERTS: [(&str, &str); 23] = [
    ("paused", "OrderlyPaused"),
    ("no-node", "OrderlyOrdersDoNotStart"),
    ("node-differs", "OrderlyOrdersDoNotStart"),
    // A locked table may keep the node from reading the store, too.
    ("locked", "OrderlyOrdersDoNotStart|OrderlyStoreDown"),
    ("no-worker", "OrderlyOrdersDoNotStart"),
    ("slots-full", "OrderlyOrdersDoNotStart"),
    ("service-down", "OrderlyServiceDown"),
    ("processor", "OrderlyServiceDown"),
    ("behind", "OrderlyBehind"),
    ("many-failed", "OrderlyManyFailed"),
    ("no-report", "OrderlyStuckInProcessing"),
    ("no-answer", "OrderlyStuckInProcessing"),
    ("leases-lost", "OrderlyLeasesLost"),
    ("user-blocked", "OrderlyUserBlocked"),
    ("node-silent", "OrderlyNodeSilent"),
    ("clock-off", "OrderlyNodesUnlike"),
    ("connections-full", "OrderlyConnectionsFull"),
    ("disk-filling", "OrderlyDiskFills"),
    ("log-unwritable", "OrderlyLogLinesLost"),
    ("long-transaction", "OrderlyOldTransaction"),
    ("certificate-ends", "OrderlyCertificateEnds"),
    ("store", "OrderlyStoreDown"),
    ("writes", "OrderlyStoreDown"),
];
/// Checks whose alerts a real Prometheus is shown, too.
const SHOWN_TO_PROMETHEUS: [&str; 8] = [
    "no-worker",
    "node-differs",
    "locked",
    "slots-full",
    "service-down",
    "many-failed",
    "user-blocked",
    "store",
];

/// Asserts that the alert of the fault fires: `before` and `now` are a node's metrics, `None` where it does not answer.
pub async fn assert_fires(check: &str, url: Option<&str>, before: Option<&str>) {
    if !required("promtool", is_installed()) {
        return;
    }
    let now = match url {
        Some(url) => scrape(url).await,
        None => None,
    };
    let of_check = ALERTS.iter().find(|(known, _)| *known == check);
    let alert = match (of_check, &now) {
        (_, None) => "OrderlyNodeDown",
        (Some((_, alert)), Some(_)) => alert,
        (None, Some(_)) => panic!("{check} has no alert"),
    };
    let fires =
        format!("count(max_over_time(ALERTS{{alertname=~\"{alert}\",alertstate=\"firing\"}}[40m])) > bool 0");
    evaluate(before, now.as_deref(), &fires, "[{value: 1}]").await;
    if in_full()
        && SHOWN_TO_PROMETHEUS.contains(&check)
        && let Some(url) = url
    {
        Prometheus::start(url).await.until_fires(alert).await;
    }
}

/// Asserts that nothing fires on the metrics of a node.
pub async fn assert_silent(url: &str, before: Option<&str>) {
    if !required("promtool", is_installed()) {
        return;
    }
    let now = scrape(url).await;
    let any = "count by (alertname) (max_over_time(ALERTS{alertstate=\"firing\"}[40m]))";
    evaluate(before, now.as_deref(), any, "[]").await;
}

fn is_installed() -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|folder| folder.join("promtool").is_file())
}

pub async fn scrape(url: &str) -> Option<String> {
    let answer = http()
        .get(format!("{url}/metrics/prometheus"))
        .send()
        .await
        .ok()?;
    if answer.status().is_success() {
        answer.text().await.ok()
    } else {
        None
    }
}

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yml")
}

/// Runs a test of the rules: five minutes as before, then as now.
async fn evaluate(before: Option<&str>, now: Option<&str>, expression: &str, expected: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("test.yml");
    let mut text = format!(
        "rule_files: ['{}']\nevaluation_interval: 30s\ntests:\n  - interval: 1m\n    input_series:\n",
        rules().display()
    );
    let labels = r#"instance="shop-1:5000",job="orderly""#;
    let mut add = |series: &str, before: Option<&str>, now: Option<&str>| {
        let (name, own) = series.split_once('{').unwrap_or((series, "}"));
        let own = own.trim_end_matches('}');
        let comma = if own.is_empty() { "" } else { "," };
        let before = before.map_or_else(|| "_x5".to_owned(), |value| format!("{value}+0x5"));
        let now = now.map_or_else(|| "_x35".to_owned(), |value| format!("{value}+0x35"));
        writeln!(
            text,
            "      - series: '{name}{{{own}{comma}{labels}}}'\n        values: '{before} {now}'"
        )
        .expect("a string takes everything");
    };
    let up = |scrape: Option<&str>| if scrape.is_some() { "1" } else { "0" };
    add("up", Some("1"), Some(up(now)));
    let value = |scrape: Option<&str>, series: &str| {
        samples(scrape?).find_map(|(name, value)| (name == series).then(|| value.to_owned()))
    };
    let of_either = now.or(before).unwrap_or_default();
    for (series, _) in samples(of_either) {
        add(
            series,
            value(before, series).as_deref(),
            value(now, series).as_deref(),
        );
    }
    write!(
        text,
        "    promql_expr_test:\n      - expr: '{expression}'\n        eval_time: 40m\n        exp_samples: {expected}\n"
    )
    .expect("a string takes everything");
    std::fs::write(&file, &text).expect("a file can be written");
    let output = Command::new("promtool")
        .args(["test", "rules"])
        .arg(&file)
        .output()
        .await
        .expect("promtool can be run");
    assert!(
        output.status.success(),
        "{expression}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Reads the samples of an exposition, without the buckets of histograms.
fn samples(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.contains("_bucket{"))
        .filter_map(|line| line.rsplit_once(' '))
}

/// A Prometheus that scrapes one node every three seconds: an answer takes up to two when the store hangs.
struct Prometheus {
    url: String,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    async fn start(node: &str) -> Prometheus {
        let folder = tempfile::tempdir().expect("a folder");
        let address = node.trim_start_matches("http://");
        // A node whose store hangs answers after 1.5 s.
        let config = format!(
            "global: {{scrape_interval: 5s, scrape_timeout: 4s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n  - job_name: orderly\n    \
             metrics_path: /metrics/prometheus\n    static_configs: [{{targets: ['{address}']}}]\n",
            rules().display()
        );
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a file can be written");
        let mut process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus can be started");
        let mut lines = BufReader::new(process.stderr.take().expect("stderr is piped")).lines();
        let url = loop {
            let line = lines
                .next_line()
                .await
                .expect("a line")
                .expect("prometheus says where it listens");
            if let Some((_, rest)) = line.split_once("msg=\"Listening on\" address=") {
                break format!("http://{}", rest.split(' ').next().unwrap_or_default());
            }
        };
        // Reads on, so that it does not wait for a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Prometheus {
            url,
            _process: process,
            _folder: folder,
        }
    }

    async fn until_fires(&self, alert: &str) {
        let fires = async || {
            let url = format!("{}/api/v1/alerts", self.url);
            let alerts: Value = match http().get(url).send().await {
                Ok(answer) => answer.json().await.unwrap_or_default(),
                Err(_) => Value::Null,
            };
            let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
            alerts.iter().any(|found| {
                let name = found["labels"]["alertname"].as_str().unwrap_or_default();
                alert.split('|').any(|alert| alert == name) && found["state"] == "firing"
            })
        };
        let waited = tokio::time::timeout(PROMETHEUS_PATIENCE, async {
            while !fires().await {
                tokio::task::yield_now().await;
            }
        });
        assert!(waited.await.is_ok(), "Prometheus does not fire {alert}");
    }
}

#[tokio::test]
async fn the_rules_are_accepted_by_promtool() {
    if !required("promtool", is_installed()) {
        return;
    }
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(rules())
        .output();
    let output = output.await.expect("promtool can be run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A metric that no node has would make a rule that never fires.
#[tokio::test(flavor = "multi_thread")]
async fn every_rule_names_metrics_and_a_section_that_exist() {
    let shop = super::Shop::new(&[]);
    let node = shop.node().await;
    let metrics = scrape(&node.url).await.expect("metrics");
    let operations = include_str!("../../../../docs/OPERATIONS.md");
    let text = std::fs::read_to_string(rules()).expect("the rules");
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    for name in words.filter(|word| word.starts_with("orderly_")) {
        let family = name.trim_end_matches("_count").trim_end_matches("_total");
        assert!(
            metrics.contains(&format!("# TYPE {family}")),
            "no node has {name}"
        );
    }
    let anchors: Vec<String> = operations
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|title| title.to_lowercase().replace(' ', "-").replace(['"', ','], ""))
        .collect();
    let named = text
        .lines()
        .filter_map(|line| line.split_once("docs/OPERATIONS.md#"));
    for (_, anchor) in named {
        let anchor = anchor.trim_end_matches('"');
        assert!(
            anchors.iter().any(|known| known == anchor),
            "no section #{anchor}"
        );
    }
}
