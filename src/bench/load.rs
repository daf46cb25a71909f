//! Load generator: many connections on two threads send a script for a while and record latencies. Closed loop: the next
//! request follows the answer. Open loop: requests follow the schedule of `pace`.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::connection::{Answer, Connection};
use super::pace::{self, Tickets, Times};
use super::script::{Script, Turns};
use super::statistics::Latencies;

/// Threads of the generator. It shares the machine with the server and needs little per connection.
const THREADS: u32 = 2;
/// Time for the last answers after the end; later ones count as failed.
const LAST_ANSWERS_TIME: Duration = Duration::from_secs(30);
/// Minimum extra time in which an open loop may send overdue requests; otherwise as long as the load itself.
const LATE_TIME_MIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
pub struct Drive {
    pub connections: usize,
    pub time: Duration,
    /// Requests per second of an open loop; `None` for a closed one.
    pub rate: Option<f64>,
}

/// Result of a load.
#[derive(Clone, Default)]
pub struct Driven {
    /// Number of successful answers.
    pub answered: u64,
    /// Number of those that came before the end of the time.
    pub in_time: u64,
    pub refused: u64,
    pub first_refusal: Option<String>,
    /// Requests of an open loop that were never sent; their latencies count as if answered at the very end.
    pub unsent: u64,
    /// Latencies of successful answers and of unsent requests.
    pub latencies: Latencies,
}

impl Driven {
    pub fn add(&mut self, share: Driven) {
        self.answered += share.answered;
        self.in_time += share.in_time;
        self.refused += share.refused;
        self.unsent += share.unsent;
        self.first_refusal = self.first_refusal.take().or(share.first_refusal);
        self.latencies.add(&share.latencies);
    }

    fn take(&mut self, answer: &Answer<'_>, latency: Duration, in_time: bool) {
        if answer.is_good() {
            self.answered += 1;
            self.in_time += u64::from(in_time);
            self.latencies.record(latency);
        } else {
            self.refused += 1;
            self.first_refusal.get_or_insert_with(|| answer.describe());
        }
    }
}

/// Sends the script. Dropping the future stops it.
pub async fn drive(script: &Arc<Script>, how: Drive) -> anyhow::Result<Driven> {
    let stop = CancellationToken::new();
    let _ends_with_this = stop.clone().drop_guard();
    let threads = THREADS.min(u32::try_from(how.connections).unwrap_or(THREADS));
    let mut streams: Vec<Vec<std::net::TcpStream>> = (0..threads).map(|_| Vec::new()).collect();
    for (connection, thread) in (0..how.connections).zip((0..streams.len()).cycle()) {
        let opened = Connection::open(script.address()).await;
        let opened = opened.with_context(|| format!("open connection {}", connection + 1))?;
        streams[thread].push(opened.detach()?);
    }
    let start = Instant::now();
    let mut schedules = Vec::new();
    let mut ends = Vec::new();
    for (number, streams) in (0..).zip(streams) {
        let tickets = how.rate.map(|rate| {
            let times = Times::of_share(start, rate, how.time, number, threads);
            Tickets::new(times)
        });
        schedules.extend(tickets.as_ref().map(Tickets::schedule));
        let share = Share {
            script: script.clone(),
            streams,
            end: start + how.time,
            give_up: start + how.time + how.time.max(LATE_TIME_MIN),
            tickets,
        };
        let (ended, end) = oneshot::channel();
        let stop = stop.clone();
        thread::Builder::new()
            .name(format!("load-{number}"))
            .spawn(move || {
                // The receiver is gone if the load was stopped.
                let _ = ended.send(share.run(&stop));
            })
            .context("start a thread")?;
        ends.push(end);
    }
    if !schedules.is_empty() {
        // Ends after its last request, or with the guard above.
        drop(pace::release(schedules, how.connections, stop.clone()));
    }
    let mut driven = Driven::default();
    for share in join_all(ends).await {
        driven.add(share.context("a thread of the load generator panicked")??);
    }
    Ok(driven)
}

/// Work of one thread.
struct Share {
    script: Arc<Script>,
    streams: Vec<std::net::TcpStream>,
    end: Instant,
    /// Time after which nothing more is sent.
    give_up: Instant,
    tickets: Option<Tickets>,
}

impl Share {
    fn run(mut self, stop: &CancellationToken) -> anyhow::Result<Driven> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime")?;
        runtime.block_on(async {
            let streams = std::mem::take(&mut self.streams);
            let connections: Result<Vec<Connection>, _> =
                streams.into_iter().map(Connection::attach).collect();
            let tally = RefCell::new(Driven::default());
            let connections = connections?.into_iter().enumerate();
            let all = connections.map(|(number, connection)| self.send(connection, number, &tally));
            let last_answer = tokio::time::Instant::from_std(self.give_up + LAST_ANSWERS_TIME);
            tokio::select! {
                ended = try_join_all(all) => drop(ended?),
                () = tokio::time::sleep_until(last_answer) => bail!("a request was not answered within {LAST_ANSWERS_TIME:?}"),
                () = stop.cancelled() => bail!("stopped"),
            }
            let mut driven = tally.into_inner();
            let now = Instant::now();
            for due in self.tickets.iter().flat_map(Tickets::left) {
                driven.unsent += 1;
                driven.latencies.record(now - due);
            }
            Ok(driven)
        })
    }

    async fn send(
        &self,
        connection: Connection,
        number: usize,
        tally: &RefCell<Driven>,
    ) -> anyhow::Result<()> {
        let turns = Turns::begin(self.script.clone(), number);
        match &self.tickets {
            Some(tickets) => self.send_when_due(connection, turns, tickets, tally).await,
            None => self.send_on(connection, turns, tally).await,
        }
    }

    async fn send_on(
        &self,
        mut connection: Connection,
        mut turns: Turns,
        tally: &RefCell<Driven>,
    ) -> anyhow::Result<()> {
        let mut began = Instant::now();
        while began < self.end {
            let answer = connection.exchange(turns.request()).await?;
            let now = Instant::now();
            tally.borrow_mut().take(&answer, now - began, now <= self.end);
            turns.answered(answer.body);
            began = now;
        }
        Ok(())
    }

    async fn send_when_due(
        &self,
        mut connection: Connection,
        mut turns: Turns,
        tickets: &Tickets,
        tally: &RefCell<Driven>,
    ) -> anyhow::Result<()> {
        while Instant::now() < self.give_up
            && let Some(due) = tickets.next().await
        {
            let answer = connection.exchange(turns.request()).await?;
            let now = Instant::now();
            tally.borrow_mut().take(&answer, now - due, now <= self.end);
            turns.answered(answer.body);
        }
        Ok(())
    }
}
