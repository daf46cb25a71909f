//! Feed latency: the time from a change until subscribers have it, and the cost of subscribers that do not read:
//! thousands of server-sent event streams on one server, at an even rate of changes. See docs/BENCHMARKS.md.
//!
//! `cargo run --release --example feed_latency -- SERVER [crowd | alone]` starts the server SERVER (the release build
//! of `orderly`) on a new store in a temporary folder, or on the PostgreSQL of `BENCH_DATABASE_URL`. `crowd` needs
//! `ulimit -n` of 20,000. `BENCH_ROUNDS` is 3 by default.
//!
//! A time runs from the event's `at`, which the store sets just before the commit, until this program has read the event;
//! it includes the commit with its sync. Both clocks are that of this machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Streams that follow one user each, with as many users.
const FOLLOWERS_OF_ONE: usize = 5_000;
const FOLLOWERS_OF_ALL: usize = 20;
/// Streams that follow everything and do not read.
const STUCK: usize = 500;
/// Kernel buffer of such a stream; a larger one would take all events, and the stream would not be stuck.
const STUCK_BUFFER_BYTES: u32 = 16 * 1024;
/// accepted, started, completed.
const CHANGES_PER_ORDER: u64 = 3;
const CHANGES_PER_SECOND: u64 = 500;
const WARM_UP: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(20);
/// Orders placed one at a time, each after the one before is completed.
const ORDERS_ALONE: usize = 500;
/// Orders per batch while the stuck streams are filled; less than a queue holds, so that reading subscribers keep theirs.
const FLOOD_ORDERS: usize = 100;
/// Batches in a row without a delivery to the stuck streams, after which they count as blocked.
const BLOCKED_BATCHES: u32 = 20;
/// Maximum time after the last order for the last changes to arrive.
const ARRIVAL_MAX: Duration = Duration::from_mins(1);
/// Connections that place orders; enough for the rate.
const BUYERS: usize = 4;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (program, what) = match &arguments[..] {
        [program] => (program, "crowd"),
        [program, what] => (program, what.as_str()),
        _ => bail!("give the server's program, and `crowd` or `alone`"),
    };
    let rounds = std::env::var("BENCH_ROUNDS").map_or(Ok(3), |rounds| rounds.parse())?;
    for round in 1..=rounds {
        match what {
            "crowd" => crowd(Path::new(program), round).await?,
            "alone" => alone(Path::new(program), round).await?,
            other => bail!("{other} is neither `crowd` nor `alone`"),
        }
    }
    Ok(())
}

/// Measures one subscriber and one order at a time, on an otherwise idle server.
async fn alone(program: &Path, round: usize) -> anyhow::Result<()> {
    let server = Server::start(program).await?;
    let count = Arc::new(Count::default());
    count.measuring.store(true, Ordering::Relaxed);
    let (done, mut arrivals) = mpsc::unbounded_channel();
    let follower = Follower::open(&server.address, "", count.clone()).await?;
    let reading = tokio::spawn(follower.read(Some(done)));
    let mut buyer = Buyer::open(&server.address).await?;
    for user_id in 1..=ORDERS_ALONE {
        buyer.order(user_id).await?;
        for _ in 0..CHANGES_PER_ORDER {
            arrivals.recv().await.context("the stream ended")?;
        }
    }
    reading.abort();
    let times = count.times();
    println!(
        "round {round}: one follower, {ORDERS_ALONE} orders, one at a time: {}",
        Figures::of(times)
    );
    Ok(())
}

async fn crowd(program: &Path, round: usize) -> anyhow::Result<()> {
    let server = Server::start(program).await?;
    let before = server.usage()?;
    let of_one = Arc::new(Count::default());
    let of_all = Arc::new(Count::default());
    for user_id in 1..=FOLLOWERS_OF_ONE {
        let filter = format!("?user_id={user_id}");
        let follower = Follower::open(&server.address, &filter, of_one.clone()).await?;
        tokio::spawn(follower.read(None));
    }
    for _ in 0..FOLLOWERS_OF_ALL {
        let follower = Follower::open(&server.address, "", of_all.clone()).await?;
        tokio::spawn(follower.read(None));
    }
    let crowded = server.usage()?;
    println!(
        "round {round}: {FOLLOWERS_OF_ONE} follow one user each, {FOLLOWERS_OF_ALL} follow everything; \
         resident {} MiB before, {} MiB with them",
        before.resident_mib, crowded.resident_mib
    );
    let free = run(&server, &of_one, &of_all, "all read").await?;

    let lagged_before = server.lagged().await?;
    let stuck_count = Arc::new(Count::default());
    let mut let_go = Vec::new();
    let mut unstuck = Vec::new();
    for _ in 0..STUCK {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(STUCK_BUFFER_BYTES)?;
        let stream = socket.connect(server.address.parse()?).await?;
        let follower = Follower::begin(stream, &server.address, "", stuck_count.clone()).await?;
        let (sender, receiver) = oneshot::channel::<()>();
        let_go.push(sender);
        unstuck.push(tokio::spawn(async move {
            // Reads nothing until released.
            let _ = receiver.await;
            follower.read(None).await
        }));
    }
    let flood = flood(&server, &of_all, lagged_before + u64::try_from(STUCK)?).await?;
    println!("  after {flood} changes, all {STUCK} that do not read had overflowed their queues");
    let stuck = run(&server, &of_one, &of_all, "with those that do not read").await?;
    println!(
        "  p99 of those that read, with {STUCK} that do not against without: {:.2} (one user), {:.2} (everything)",
        stuck.of_one.p99 / free.of_one.p99,
        stuck.of_all.p99 / free.of_all.p99
    );
    let began = Instant::now();
    drop(let_go);
    let all = (flood + stuck.changes) * u64::try_from(STUCK)?;
    let caught_up = until(ARRIVAL_MAX, || stuck_count.arrived() >= all).await;
    let cut = unstuck.iter().filter(|task| task.is_finished()).count();
    println!(
        "  released: {} of {all} changes arrived at those that had not read, within {:.1} s ({cut} of them were cut off{})",
        stuck_count.arrived(),
        began.elapsed().as_secs_f64(),
        if caught_up {
            ""
        } else {
            "; the rest did not arrive in time"
        }
    );
    for task in unstuck {
        task.abort();
    }
    // Shows the effect of the machine and the grown store alone.
    let after = run(&server, &of_one, &of_all, "all read, again").await?;
    println!(
        "  p99 of the last run compared to the first: {:.2} (one user), {:.2} (everything)",
        after.of_one.p99 / free.of_one.p99,
        after.of_all.p99 / free.of_all.p99
    );
    Ok(())
}

/// Places orders as fast as the subscribers to everything read them, until `lagged` queues have overflowed and the stuck
/// streams get nothing more for a while: their kernel buffers are full then. Returns the number of changes.
async fn flood(server: &Server, of_all: &Count, lagged: u64) -> anyhow::Result<u64> {
    let before = of_all.arrived();
    let mut buyer = Buyer::open(&server.address).await?;
    let (mut changes, mut blocked) = (0, 0);
    while server.lagged().await? < lagged || blocked < BLOCKED_BATCHES {
        let delivered_before = server.delivered().await?;
        let batch = buyer.orders(FLOOD_ORDERS).await? * CHANGES_PER_ORDER;
        changes += batch;
        let to_all = changes * u64::try_from(FOLLOWERS_OF_ALL)?;
        let arrived = until(ARRIVAL_MAX, || of_all.arrived() - before >= to_all).await;
        ensure!(arrived, "the subscribers to everything did not get it");
        // Readers are the subscribers to everything and the one of the order's user.
        let to_readers = batch * u64::try_from(FOLLOWERS_OF_ALL + 1)?;
        let only_readers = server.delivered().await? - delivered_before <= to_readers;
        blocked = if only_readers { blocked + 1 } else { 0 };
    }
    Ok(changes)
}

/// Results of one run at the even rate.
struct Run {
    of_one: Figures,
    of_all: Figures,
    /// Number of changes in the feed, including the warm-up.
    changes: u64,
}

async fn run(server: &Server, of_one: &Arc<Count>, of_all: &Arc<Count>, what: &str) -> anyhow::Result<Run> {
    let (one_before, all_before) = (of_one.arrived(), of_all.arrived());
    let warm = shop(&server.address, WARM_UP).await?;
    for count in [of_one, of_all] {
        count.times();
        count.measuring.store(true, Ordering::Relaxed);
    }
    let before = server.usage()?;
    let began = Instant::now();
    let orders = warm + shop(&server.address, MEASURED).await?;
    let took = began.elapsed();
    let changes = orders * CHANGES_PER_ORDER;
    let to_all = changes * u64::try_from(FOLLOWERS_OF_ALL)?;
    until(ARRIVAL_MAX, || {
        of_one.arrived() - one_before >= changes && of_all.arrived() - all_before >= to_all
    })
    .await;
    for count in [of_one, of_all] {
        count.measuring.store(false, Ordering::Relaxed);
    }
    let after = server.usage()?;
    let run = Run {
        of_one: Figures::of(of_one.times()),
        of_all: Figures::of(of_all.times()),
        changes,
    };
    let measured = u32::try_from((orders - warm) * CHANGES_PER_ORDER)?;
    let used = after.processor.saturating_sub(before.processor);
    println!(
        "  {what}: {:.0} changes/s, processor {:.0} % of one core, resident {} MiB",
        f64::from(measured) / took.as_secs_f64(),
        used.as_secs_f64() / took.as_secs_f64() * 100.0,
        after.resident_mib
    );
    let arrived = of_one.arrived() - one_before;
    println!("    one user:   {}; {arrived} of {changes} arrived", run.of_one);
    let arrived = of_all.arrived() - all_before;
    println!("    everything: {}; {arrived} of {to_all} arrived", run.of_all);
    Ok(run)
}

/// Places orders at an even rate, over all users, and returns their number.
async fn shop(address: &str, time: Duration) -> anyhow::Result<u64> {
    let per_buyer = CHANGES_PER_ORDER * u64::try_from(BUYERS)?;
    let step = Duration::from_secs(per_buyer) / u32::try_from(CHANGES_PER_SECOND)?;
    let mut buying = Vec::new();
    for number in 0..BUYERS {
        let mut buyer = Buyer::open(address).await?;
        let offset = step / u32::try_from(BUYERS)? * u32::try_from(number)?;
        buying.push(tokio::spawn(async move {
            tokio::time::sleep(offset).await;
            let mut ticks = interval(step);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let end = Instant::now() + time;
            let mut orders = 0;
            while Instant::now() < end {
                ticks.tick().await;
                // A step coprime to the number of users reaches all of them.
                let user_id = (orders * BUYERS + number) * 1_999 % FOLLOWERS_OF_ONE + 1;
                buyer.order(user_id).await?;
                orders += 1;
            }
            anyhow::Ok(u64::try_from(orders)?)
        }));
    }
    let mut orders = 0;
    for buyer in buying {
        orders += buyer.await??;
    }
    Ok(orders)
}

async fn until(time_max: Duration, reached: impl Fn() -> bool) -> bool {
    let looking = async {
        let mut ticks = interval(Duration::from_millis(50));
        while !reached() {
            ticks.tick().await;
        }
    };
    timeout(time_max, looking).await.is_ok()
}

/// Arrivals at the subscribers of one kind.
#[derive(Default)]
struct Count {
    arrived: AtomicU64,
    measuring: AtomicBool,
    micros: std::sync::Mutex<Vec<u32>>,
}

impl Count {
    fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Takes the recorded times.
    fn times(&self) -> Vec<u32> {
        std::mem::take(
            &mut *self
                .micros
                .lock()
                .expect("no code panics while it holds this lock"),
        )
    }
}

#[derive(Clone, Copy)]
struct Figures {
    count: usize,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Figures {
    /// Returns quantiles in milliseconds.
    fn of(mut micros: Vec<u32>) -> Figures {
        micros.sort_unstable();
        let at = |per_mille: usize| {
            let last = micros.len().saturating_sub(1);
            let micros = micros.get(last * per_mille / 1_000);
            micros.map_or(f64::NAN, |micros| f64::from(*micros) / 1_000.0)
        };
        Figures {
            count: micros.len(),
            p50: at(500),
            p99: at(990),
            max: at(1_000),
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Figures { count, p50, p99, max } = self;
        write!(to, "p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms of {count}")
    }
}

/// One stream of server-sent events, read as cheaply as possible.
struct Follower {
    stream: TcpStream,
    count: Arc<Count>,
}

impl Follower {
    async fn open(address: &str, query: &str, count: Arc<Count>) -> anyhow::Result<Follower> {
        let stream = TcpStream::connect(address).await.context("follow")?;
        Follower::begin(stream, address, query, count).await
    }

    /// Opens a stream; returns once it has begun.
    async fn begin(
        mut stream: TcpStream,
        address: &str,
        query: &str,
        count: Arc<Count>,
    ) -> anyhow::Result<Follower> {
        let request =
            format!("GET /events{query} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut begun = Vec::new();
        while !contains(&begun, b"\nid: ") {
            ensure!(stream.read_buf(&mut begun).await? > 0, "the stream ended");
        }
        ensure!(
            begun.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&begun)
        );
        Ok(Follower { stream, count })
    }

    /// Reads until the end of the stream.
    async fn read(mut self, each: Option<mpsc::UnboundedSender<()>>) -> anyhow::Result<()> {
        const AT: &[u8] = b"\"at\":\"";
        /// Length of the time after the last `at`.
        const TIME_BYTES: usize = 27;
        let mut bytes = Vec::with_capacity(4_096);
        loop {
            if self.stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            let now = now_micros();
            let mut read_to = 0;
            while let Some(found) = find(&bytes[read_to..], AT) {
                let begin = read_to + found + AT.len();
                let Some(time) = bytes.get(begin..begin + TIME_BYTES) else {
                    break;
                };
                self.arrived(now, time)?;
                if let Some(each) = &each {
                    each.send(())?;
                }
                read_to = begin + TIME_BYTES;
            }
            // An `at` may be split.
            let keep = bytes.len().saturating_sub(AT.len() + TIME_BYTES).max(read_to);
            bytes.drain(..keep);
        }
    }

    fn arrived(&self, now: i64, time: &[u8]) -> anyhow::Result<()> {
        self.count.arrived.fetch_add(1, Ordering::Relaxed);
        if self.count.measuring.load(Ordering::Relaxed) {
            let at: jiff::Timestamp = std::str::from_utf8(time)?.parse()?;
            let micros = u32::try_from((now - at.as_microsecond()).max(0)).unwrap_or(u32::MAX);
            self.count
                .micros
                .lock()
                .expect("no code panics while it holds this lock")
                .push(micros);
        }
        Ok(())
    }
}

/// A connection that places orders.
struct Buyer {
    stream: TcpStream,
    address: String,
    answer: Vec<u8>,
}

impl Buyer {
    async fn open(address: &str) -> anyhow::Result<Buyer> {
        let stream = TcpStream::connect(address).await.context("buy")?;
        stream.set_nodelay(true)?;
        Ok(Buyer {
            stream,
            address: address.to_owned(),
            answer: Vec::new(),
        })
    }

    async fn order(&mut self, user_id: usize) -> anyhow::Result<()> {
        // The answer ends with the last byte of the order.
        self.post("/orders", &order(user_id), b"}").await
    }

    /// Places one order for each of `count` users, in one request; returns their number.
    async fn orders(&mut self, count: usize) -> anyhow::Result<u64> {
        let orders: Vec<String> = (1..=count).map(order).collect();
        let body = format!("{{\"orders\":[{}]}}", orders.join(","));
        self.post("/orders/batch", &body, b"]}").await?;
        Ok(u64::try_from(count)?)
    }

    async fn post(&mut self, path: &str, body: &str, end: &[u8]) -> anyhow::Result<()> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.stream
            .write_all(&[head.as_bytes(), body.as_bytes()].concat())
            .await?;
        self.answer.clear();
        while !self.answer.ends_with(end) {
            ensure!(
                self.stream.read_buf(&mut self.answer).await? > 0,
                "no answer to an order"
            );
        }
        ensure!(
            self.answer.starts_with(b"HTTP/1.1 201"),
            "{}",
            String::from_utf8_lossy(&self.answer)
        );
        Ok(())
    }
}

fn order(user_id: usize) -> String {
    format!("{{\"user_id\":{user_id},\"item_ids\":[101],\"total_amount\":250.75}}")
}

/// The server under test, ended on drop.
struct Server {
    process: Child,
    address: String,
    _folder: Folder,
}

struct Usage {
    resident_mib: u64,
    processor: Duration,
}

impl Server {
    async fn start(program: &Path) -> anyhow::Result<Server> {
        let folder = Folder::new()?;
        let database = std::env::var("BENCH_DATABASE_URL")
            .unwrap_or_else(|_| format!("sqlite:{}", folder.0.join("orderly.db").display()));
        let mut process = Command::new(program.canonicalize()?)
            .current_dir(&folder.0)
            .env("HOST", "127.0.0.1")
            .env("PORT", "0")
            .env("DATABASE_URL", database)
            .env("RUST_LOG", "info")
            .env("ORDERLY_LOG_FORMAT", "json")
            .env("ORDERLY_MAX_CONNECTIONS", "8192")
            .env("ORDERLY_SIMULATED_SPEED", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the server")?;
        let mut lines = BufReader::new(process.stdout.take().context("stdout is piped")?).lines();
        let address = loop {
            let line = lines.next_line().await?.context("the server ended")?;
            let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = said["address"].as_str() {
                break address.to_owned();
            }
        };
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if !line.contains("\"INFO\"") {
                    eprintln!("{line}");
                }
            }
        });
        Ok(Server {
            process,
            address,
            _folder: folder,
        })
    }

    /// Returns how often a subscriber overflowed its queue.
    async fn lagged(&self) -> anyhow::Result<u64> {
        self.metric("orderly_feed_subscribers_lagged_total ").await
    }

    async fn delivered(&self) -> anyhow::Result<u64> {
        self.metric("orderly_feed_deliveries_total ").await
    }

    async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let request = format!(
            "GET /metrics/prometheus HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let mut lines = answer.lines();
        let count = lines.find_map(|line| line.strip_prefix(name));
        Ok(count.context("the metric is there")?.trim().parse()?)
    }

    /// Reads the usage from `/proc`.
    fn usage(&self) -> anyhow::Result<Usage> {
        let id = self.process.id().context("the server ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident
            .and_then(|rest| rest.split_whitespace().next())
            .context("VmRSS")?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // After the name in parentheses; utime and stime are fields 14 and 15 (proc(5)), in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |at: usize| {
            fields
                .get(at)
                .and_then(|text| text.parse::<u64>().ok())
                .context("stat")
        };
        Ok(Usage {
            resident_mib: resident.parse::<u64>()? / 1024,
            processor: Duration::from_millis((ticks(11)? + ticks(12)?) * 10),
        })
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("feed_latency_{}_{}", std::process::id(), now_micros()));
        std::fs::create_dir(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    find(bytes, part).is_some()
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
