//! Our own programs that follow the feed: `orderly tail`, and the example clients.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::fifty_cuts::run_through_cuts;
use super::fixture::{Fixture, Seen, Table, differences};
use crate::crash::load::seed;
use crate::support::cutter::{AFTER_THE_HEAD, ANYWHERE, Cutter, Feed};
use crate::support::process::{configure, orderly};
use crate::support::until;

/// Cuts per program: it waits some seconds after each, as the server requests.
const CUTS: usize = 5;
/// Maximum lag of the programs behind the placed orders.
const SALES_AHEAD_MAX: usize = 10;

/// A program that follows the feed, killed when dropped.
struct Follower {
    name: &'static str,
    line: Cutter,
    _child: Child,
    output: Arc<Mutex<Vec<String>>>,
    /// Messages on stderr, to explain failures.
    messages: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    fn start(name: &'static str, line: Cutter, mut command: Command) -> Follower {
        let mut child = command.env("ORDERLY_URL", &line.url).spawn().unwrap();
        let (output, messages) = <(Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<String>>>)>::default();
        tokio::spawn(keep(child.stdout.take().unwrap(), output.clone()));
        tokio::spawn(keep(child.stderr.take().unwrap(), messages.clone()));
        Follower {
            name,
            line,
            _child: child,
            output,
            messages,
        }
    }

    fn lines(&self) -> usize {
        self.output.lock().unwrap().len()
    }

    #[track_caller]
    fn assert_right(&self, wrong: &[String]) {
        assert!(
            wrong.is_empty(),
            "{}: {} findings, {:#?}, said {:#?}",
            self.name,
            wrong.len(),
            &wrong[..wrong.len().min(20)],
            self.messages.lock().unwrap()
        );
    }
}

async fn keep(output: impl AsyncRead + Unpin, kept: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        kept.lock().unwrap().push(line);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_command_prints_every_event_exactly_once() {
    let mut fixture = Fixture::open().await;
    let folder = tempfile::tempdir().unwrap();
    let mut tail = orderly(folder.path());
    tail.args(["tail", "--json", "--after", &fixture.beginning().await]);
    // When its first request gets no answer, tail ends: a wrong address is likelier than a server that is briefly down.
    let line = Cutter::before(fixture.url(), CUTS, AFTER_THE_HEAD, seed()).await;
    let tail = Follower::start("orderly tail", line, tail);
    let table = place_orders_until_cut(&mut fixture, &[&tail]).await;
    until("tail has printed every event", async || {
        tail.lines() >= table.len()
    })
    .await;
    let output = tail.output.lock().unwrap().clone();
    let seen: Vec<Seen> = output
        .iter()
        .map(|line| Seen::of(&serde_json::from_str(line).unwrap()))
        .collect();
    tail.assert_right(&differences(&seen, &table));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_clients_miss_no_event() {
    let mut fixture = Fixture::open().await;
    let folder = tempfile::tempdir().unwrap();
    let mut followers = Vec::new();
    for (interpreter, name) in [("python3", "follow.py"), ("node", "follow.mjs")] {
        // They run where their interpreter exists; the server needs none of them.
        let asked = Command::new(interpreter).arg("--version").output().await;
        if !asked.is_ok_and(|asked| asked.status.success()) {
            println!("skipped: {name} is not possible here");
            continue;
        }
        let mut command = Command::new(interpreter);
        command.arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("examples/live")
                .join(name),
        );
        configure(&mut command, folder.path());
        let line = Cutter::before(fixture.url(), CUTS, ANYWHERE, seed()).await;
        followers.push(Follower::start(name, line, command));
    }
    let all: Vec<&Follower> = followers.iter().collect();
    let table = place_orders_until_cut(&mut fixture, &all).await;
    let last = last_versions(&table);
    for follower in &followers {
        until("the example shows the end of every order", async || {
            shown(follower).0 == last
        })
        .await;
        follower.assert_right(&shown(follower).1);
    }
    fixture.close().await;
}

/// Places orders until all programs were cut as often as planned.
async fn place_orders_until_cut(fixture: &mut Fixture, followers: &[&Follower]) -> Table {
    let received = || followers.iter().map(|follower| follower.lines()).min();
    fixture.place_orders().await;
    // The first lines show existing orders, if there are few.
    until("every program has begun", async || {
        received().is_none_or(|lines| lines > 0)
    })
    .await;
    let lines: Vec<(&Cutter, Feed)> = followers
        .iter()
        .map(|follower| (&follower.line, Feed::Events))
        .collect();
    let sales = Cell::new(0_usize);
    run_through_cuts(fixture, &lines, async || {
        sales.set(sales.get() + 1);
        let least = sales.get().saturating_sub(SALES_AHEAD_MAX);
        until("no program lags far behind", async || {
            received().is_none_or(|lines| lines >= least)
        })
        .await;
    })
    .await;
    fixture.table().await
}

fn last_versions(table: &Table) -> BTreeMap<u64, u64> {
    // The highest version of an order comes last.
    table.keys().copied().collect()
}

/// The last version of each order, and errors on the way. A line is `7 Completed version 3 completed`; without the last
/// word the order existed when the example began.
fn shown(follower: &Follower) -> (BTreeMap<u64, u64>, Vec<String>) {
    let mut versions = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in &*follower.output.lock().unwrap() {
        let words: Vec<&str> = line.split(' ').collect();
        let (id, version): (u64, u64) = (words[0].parse().unwrap(), words[3].parse().unwrap());
        let before = versions.insert(id, version);
        if words.len() > 4 && version != before.unwrap_or(0) + 1 {
            wrong.push(format!("after version {before:?}: {line}"));
        }
    }
    (versions, wrong)
}
