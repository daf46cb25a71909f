//! Nodes of this program on one PostgreSQL, with or without Redis and a pooler, all on loopback and ended with their value.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::BUILT;
use crate::server::Server;

/// Time within which a program starts, and the last order is completed.
const PATIENCE: Duration = Duration::from_mins(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Time between two looks at the counts of a load: each costs the database some statements.
const COUNT_INTERVAL: Duration = Duration::from_millis(250);
const MICROS_PER_DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// Servers between the nodes and PostgreSQL, and beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Plain,
    Redis,
    /// A PgBouncer in transaction mode, without a direct URL.
    Pooled,
    PooledRedis,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Plain => "without Redis",
            Way::Redis => "with Redis",
            Way::Pooled => "behind PgBouncer",
            Way::PooledRedis => "behind PgBouncer, with Redis",
        }
    }
}

/// A process, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has already ended.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

struct Node {
    _running: Running,
    url: String,
}

pub struct Shop {
    nodes: Vec<Node>,
    program: PathBuf,
    folder: PathBuf,
    database: String,
    redis_url: Option<String>,
    _helpers: Vec<Running>,
}

impl Shop {
    /// Starts nodes with no work to do in an order, and `settings` of their own.
    pub fn start(
        root: &Path,
        folder: &Path,
        server: &Server,
        database: &str,
        way: Way,
        nodes: usize,
        settings: &[(&str, &str)],
    ) -> Result<Shop> {
        let folder = folder.join("shop");
        if folder.exists() {
            fs::remove_dir_all(&folder).context("remove the files of the last nodes")?;
        }
        fs::create_dir_all(&folder).context("create a folder for the nodes")?;
        let mut helpers = Vec::new();
        let redis_url = if matches!(way, Way::Redis | Way::PooledRedis) {
            let (running, url) = redis(&folder)?;
            helpers.push(running);
            Some(url)
        } else {
            None
        };
        let database = if matches!(way, Way::Pooled | Way::PooledRedis) {
            let (running, url) = pooler(&folder, server, database)?;
            helpers.push(running);
            url
        } else {
            database.to_owned()
        };
        let mut shop = Shop {
            nodes: Vec::new(),
            program: root.join(BUILT).join("orderly"),
            folder,
            database,
            redis_url,
            _helpers: helpers,
        };
        for _ in 0..nodes {
            shop.add_node(settings)?;
        }
        Ok(shop)
    }

    pub fn add_node(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        let folder = self.folder.join(format!("node-{}", self.nodes.len()));
        fs::create_dir_all(&folder).context("create a folder for a node")?;
        let mut command = Command::new(&self.program);
        command
            .arg("serve")
            .current_dir(&folder)
            .env_clear()
            .env("PORT", "0")
            .env("DATABASE_URL", &self.database)
            .env("ORDERLY_SIMULATED_SPEED", "0")
            .env("ORDERLY_LOG_FORMAT", "json")
            .envs(self.redis_url.iter().map(|url| ("REDIS_URL", url)))
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("run {command:?}"))?;
        let stdout = process.stdout.take().context("stdout is piped")?;
        let running = Running(process);
        let mut lines = BufReader::new(stdout).lines();
        let address = lines.by_ref().find_map(|line| {
            let line: Value = serde_json::from_str(&line.ok()?).ok()?;
            Some(line["address"].as_str()?.to_owned())
        });
        let address = address.context("the node does not start")?;
        // The node would wait for a reader of its log.
        thread::spawn(move || lines.for_each(drop));
        self.nodes.push(Node {
            _running: running,
            url: format!("http://{address}"),
        });
        Ok(())
    }

    /// Places orders at every node at once.
    pub fn place_orders(&self, connections_per_node: usize, duration: &str) -> Result<()> {
        let generators = self.nodes.iter().map(|node| {
            let mut command = Command::new(&self.program);
            command
                .args(["bench", "accept", "--json", "--rounds", "1", "--url", &node.url])
                .args([
                    "--duration",
                    duration,
                    "--connections",
                    &connections_per_node.to_string(),
                ])
                .stdout(Stdio::null());
            command
                .spawn()
                .map(Running)
                .with_context(|| format!("run {command:?}"))
        });
        for generator in generators.collect::<Result<Vec<_>>>()? {
            let mut generator = generator;
            let status = generator.0.wait()?;
            ensure!(status.success(), "a load generator failed: {status}");
        }
        Ok(())
    }

    /// Waits until no order is open, and returns how many are completed.
    pub fn until_completed(&self) -> Result<u64> {
        let metrics = self.until(
            "the last order is completed",
            "/metrics",
            COUNT_INTERVAL,
            |metrics| metrics["pending_orders"] == 0 && metrics["processing_orders"] == 0,
        )?;
        metrics["completed_orders"].as_u64().context("a count")
    }

    pub fn until_processing(&self) -> Result<()> {
        let is_busy = |metrics: &Value| metrics["processing_orders"] == 1;
        self.until("an order is in processing", "/metrics", COUNT_INTERVAL, is_busy)
            .map(drop)
    }

    fn until(
        &self,
        what: &str,
        path: &str,
        interval: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path)?;
            if holds(&answer) {
                return Ok(answer);
            }
            ensure!(
                Instant::now() < deadline,
                "timed out waiting until {what}: {answer}"
            );
            thread::sleep(interval);
        }
    }

    /// Places an order at the first node and returns its id.
    pub fn place_one(&self) -> Result<u64> {
        let url = format!("{}/orders", self.nodes[0].url);
        let order = json!({"user_id": 1, "item_ids": [1], "total_amount": 1}).to_string();
        let answer = ureq::post(&url)
            .header("Content-Type", "application/json")
            .send(&order)?;
        let answer: Value = serde_json::from_str(&answer.into_body().read_to_string()?)?;
        answer["order_id"].as_u64().context("an id")
    }

    /// Places an order at the first node and returns the microseconds from its acceptance to its start.
    pub fn wait_of_one(&self) -> Result<u64> {
        let id = self.place_one()?;
        let order = self.until(
            "the order is completed",
            &format!("/orders/{id}"),
            LOOK_INTERVAL,
            |order| order["status"] == "Completed",
        )?;
        let at = |member: &str| micros_of_day(order[member].as_str().unwrap_or_default());
        let (accepted, started) = (at("created_at")?, at("processing_at")?);
        u64::try_from((started - accepted).rem_euclid(MICROS_PER_DAY)).context("a span")
    }

    /// Returns the orders in the order of their first starts.
    pub fn started(&self) -> Result<Vec<u64>> {
        let mut started = Vec::new();
        let mut path = "/events?limit=500&status=Processing".to_owned();
        loop {
            let page = self.get(&path)?;
            let events = page["events"].as_array().context("events")?;
            let first = events
                .iter()
                .filter(|event| event["kind"] == "started" && event["attempt"] == 1);
            started.extend(first.filter_map(|event| event["order_id"].as_u64()));
            let next = page["next_cursor"].as_str().context("a cursor")?;
            let next = format!("/events?limit=500&status=Processing&after={next}");
            // At the end of the feed the cursor stays where it is.
            if events.is_empty() && next == path {
                return Ok(started);
            }
            path = next;
        }
    }

    fn get(&self, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.nodes[0].url);
        let answer = ureq::get(&url).header("Accept", "application/json").call();
        let answer = answer.with_context(|| format!("ask {url}"))?;
        Ok(serde_json::from_str(&answer.into_body().read_to_string()?)?)
    }
}

/// Starts a Redis that keeps nothing.
fn redis(folder: &Path) -> Result<(Running, String)> {
    let port = free_port()?;
    let mut command = Command::new("redis-server");
    command
        .args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .arg("--dir")
        .arg(folder)
        .stdout(File::create(folder.join("redis.log"))?);
    let running = Running(command.spawn().context("run redis-server")?);
    until_open(port)?;
    Ok((running, format!("redis://127.0.0.1:{port}")))
}

/// Starts a PgBouncer in transaction mode before the database of this URL.
fn pooler(folder: &Path, server: &Server, database: &str) -> Result<(Running, String)> {
    let port = free_port()?;
    let name = database.rsplit('/').next().context("the URL names a database")?;
    let settings = folder.join("pgbouncer.ini");
    let log = folder.join("pgbouncer.log");
    let text = format!(
        "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 40\nmax_client_conn = 500\n",
        server.port()
    );
    fs::write(&settings, text).context("write the settings of PgBouncer")?;
    let mut command = crate::server::as_user(Path::new("/usr/sbin/pgbouncer"))?;
    command
        .arg(&settings)
        .stderr(File::create(log)?)
        .stdout(Stdio::null());
    let running = Running(command.spawn().context("run pgbouncer")?);
    until_open(port)?;
    Ok((running, format!("postgres://postgres@127.0.0.1:{port}/{name}")))
}

fn free_port() -> Result<u16> {
    // Freed here; the program takes it a moment later.
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn until_open(port: u16) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > deadline {
            bail!("nothing listens on port {port}");
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

/// Parses the time of day of an RFC 3339 time with six fraction digits.
fn micros_of_day(time: &str) -> Result<i64> {
    let digits = |range: std::ops::Range<usize>| -> Option<i64> { time.get(range)?.parse().ok() };
    let parsed = || {
        let seconds = (digits(11..13)? * 60 + digits(14..16)?) * 60 + digits(17..19)?;
        Some(seconds * 1_000_000 + digits(20..26)?)
    };
    parsed().with_context(|| format!("not a time: {time:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_exact_to_the_microsecond() {
        assert_eq!(
            micros_of_day("2026-11-30T01:02:03.000004Z").unwrap(),
            3_723_000_004
        );
        assert!(micros_of_day("2026-11-30").is_err());
    }
}
