//! Wakes the nodes that wait for work when another accepts some, and those that follow the feed when it grows: one NOTIFY
//! for all that was committed since the last, never in the transactions themselves, where it would make them wait for each
//! other. Only an optimisation: every node that is awake also polls, and where notifications do not arrive (through a
//! pooler they are lost without a word) it does nothing else.
//!
//! Who is alone tells nobody. A node that joins sends a notification to prove to itself that it hears; the others learn
//! from it at once that there is somebody to tell. One that leaves while orders are open says so whether or not it knows of
//! others: those that sleep are on no list.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};

use super::answered::answered;
use super::classes::Class;
use super::connect::Connector;
use super::failure::Failure;
use super::links::Links;
use super::look::read_only_reason;
use super::pool::Pool;
use super::servers::{Opened, RawConnection};
use super::shared::Shared;

/// Shortest time between two notifications of one node.
const INTERVAL_MIN: Duration = Duration::from_millis(20);
/// After one that could not be sent.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long a notification to oneself may take before notifications count as lost.
const SELF_TEST_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two attempts to listen again.
const LISTEN_AGAIN_INTERVAL: Duration = Duration::from_secs(1);
/// The same where they did not arrive: a pooler stays one, a slow moment passes.
const LISTEN_AGAIN_INTERVAL_DEAF: Duration = Duration::from_mins(10);
/// Behind the sender's name: there is work, and new events.
const WORK: &str = " work";
/// The same where there are new events but no work: who only works need not look.
const ONLY_EVENTS: &str = " events";

/// Sends what `shared.news` asks for, until the store closes.
pub(super) async fn notify(shared: Arc<Shared>, links: Links, origin: String) {
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = shared.news.notified() => {}
        }
        shared.untold.store(true, Ordering::SeqCst);
        if !shared.others.load(Ordering::SeqCst) {
            continue;
        }
        let work = shared.work_news.swap(false, Ordering::SeqCst);
        let mark = if work { WORK } else { ONLY_EVENTS };
        let pause = match send(&links, &format!("{origin}{mark}")).await {
            Ok(()) => {
                shared.untold.store(false, Ordering::SeqCst);
                INTERVAL_MIN
            }
            Err(failure) => {
                tracing::debug!(?failure, "the other nodes could not be notified");
                if work {
                    shared.work_news.store(true, Ordering::SeqCst);
                }
                shared.news.notify_one();
                RETRY_INTERVAL
            }
        };
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// What `origin` says of work.
pub(super) fn word_of_work(origin: &str) -> String {
    format!("{origin}{WORK}")
}

async fn send(links: &Links, payload: &str) -> Result<(), Failure> {
    links
        .repeatable("select pg_notify('orderly', $1)", &[(&payload, Type::TEXT)])
        .await
        .map(drop)
}

/// Why listening ended.
enum Ended {
    /// The store closes.
    Closing,
    /// The connection is gone, or there was none.
    Lost,
    /// Notifications do not arrive on this way to the database.
    Deaf,
}

/// A way to the database that no pooler shares.
pub(super) struct Way {
    connector: Arc<Connector>,
    /// It has a URL of its own: no other use shows that it leads nowhere.
    is_separate: bool,
    /// The log says that it leads nowhere.
    told: AtomicBool,
}

impl Way {
    /// Returns the way of `DATABASE_DIRECT_URL`, or else of `DATABASE_URL` unless a pooler seems to stand there.
    pub fn of(direct: Option<Arc<Connector>>, usual: &Arc<Connector>, looks_pooled: bool) -> Option<Way> {
        let is_separate = direct.is_some();
        let connector = direct.or_else(|| (!looks_pooled).then(|| usual.clone()))?;
        Some(Way {
            connector,
            is_separate,
            told: AtomicBool::new(false),
        })
    }

    /// Opens a connection for listening, which no standby offers.
    async fn open(&self) -> Result<Opened, Failure> {
        let opened = self.connector.open().await?;
        if opened.found.is_standby {
            return Err(Failure::ReadOnly(read_only_reason(true).into()));
        }
        self.told.store(false, Ordering::Relaxed);
        Ok(opened)
    }

    /// Notes that there is no connection for listening. While the whole database is away that is no news.
    fn leads_nowhere(&self, failure: &Failure) {
        tracing::debug!(?failure, "cannot listen for other nodes' notifications");
        let is_news = self.is_separate && !self.connector.state().is_away();
        if is_news && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "DATABASE_DIRECT_URL leads to no server to listen on ({}): this node finds other nodes' orders by polling \
                 until it does",
                failure.text()
            );
        }
    }
}

/// Turns the other nodes' notifications into wake-ups, until the store closes.
pub(super) async fn listen(
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    way: Option<Way>,
    links: Links,
    origin: String,
) {
    let Some(way) = way else {
        return tell_of_polling();
    };
    let mut told = false;
    loop {
        let pause;
        match listen_once(&shared, &pool, &way, &links, &origin).await {
            Ended::Closing => return,
            Ended::Lost => pause = LISTEN_AGAIN_INTERVAL,
            Ended::Deaf => {
                if !told {
                    tell_of_polling();
                    told = true;
                }
                pause = LISTEN_AGAIN_INTERVAL_DEAF;
            }
        }
        // Not on its own account: a database that sleeps is left alone until it is used again.
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = async {
                sleep(pause).await;
                way.connector.state().used().await;
            } => {}
        }
    }
}

fn tell_of_polling() {
    tracing::info!(
        "notifications do not arrive over this way to the database (a pooler?): this node finds other nodes' orders by \
         polling; DATABASE_DIRECT_URL would name a way past a pooler"
    );
}

/// A node that is on no list is not told of everything: it need not listen, and must not believe that it hears all.
async fn listen_once(shared: &Shared, pool: &Arc<Pool>, way: &Way, links: &Links, origin: &str) -> Ended {
    let mut listed = shared.listed.subscribe();
    tokio::select! {
        () = shared.closing.cancelled() => return Ended::Closing,
        _ = listed.wait_for(|listed| *listed) => {}
    }
    let Some(place) = pool.place(Class::Listen) else {
        return Ended::Lost;
    };
    let Opened {
        client, connection, ..
    } = match way.open().await {
        Ok(opened) => opened,
        Err(failure) => {
            way.leads_nowhere(&failure);
            return Ended::Lost;
        }
    };
    let own = watch::Sender::new(0);
    let hear = drive(connection, |payload| {
        if payload.starts_with(origin) {
            own.send_modify(|heard| *heard += 1);
        } else {
            heard_another(shared, payload);
        }
    });
    let believe = async {
        match believe(shared, &client, links, origin, &own).await {
            Ok(ended) => ended,
            Err(failure) => {
                tracing::debug!(?failure, "cannot listen for other nodes' notifications");
                Ended::Lost
            }
        }
    };
    let ended = tokio::select! {
        () = shared.closing.cancelled() => Ended::Closing,
        ended = believe => ended,
        () = hear => Ended::Lost,
        () = place.needed() => Ended::Lost,
        // What is committed is told on another server from now on.
        () = pool.connector().server_left() => Ended::Lost,
    };
    shared.wakeups.set_hears_all(false);
    ended
}

fn heard_another(shared: &Shared, payload: &str) {
    // Or it would not be told of what is committed here until the next heartbeat.
    shared.found_others(true);
    if !payload.ends_with(ONLY_EVENTS) {
        shared.wakeups.notify_work();
    }
    shared.events_came();
}

/// Reads the connection's messages to its end.
async fn drive(mut connection: RawConnection, mut hear: impl FnMut(&str)) {
    let mut messages = poll_fn(move |context| connection.poll_message(context));
    while let Some(message) = messages.next().await {
        match message {
            Ok(AsyncMessage::Notification(notification)) => hear(notification.payload()),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "the connection that listens ended");
                return;
            }
        }
    }
}

/// This node hears of everything that the others commit, as long as notifications arrive and the others know of it.
async fn believe(
    shared: &Shared,
    client: &Client,
    links: &Links,
    origin: &str,
    own: &watch::Sender<u64>,
) -> Result<Ended, Failure> {
    let mut listed = shared.listed.subscribe();
    answered(client.batch_execute("listen orderly")).await?;
    loop {
        // Each time anew: those who came while this node was on no list do not know of it.
        if !proven(links, origin, own).await? {
            // A pooler may have left the server's session listening.
            answered(client.batch_execute("unlisten *")).await?;
            return Ok(Ended::Deaf);
        }
        shared.wakeups.set_hears_all(true);
        let _ = listed.wait_for(|listed| !*listed).await;
        shared.wakeups.set_hears_all(false);
        let _ = listed.wait_for(|listed| *listed).await;
    }
}

/// Whether a notification sent the usual way arrives here.
async fn proven(links: &Links, origin: &str, own: &watch::Sender<u64>) -> Result<bool, Failure> {
    let mut heard = own.subscribe();
    let before = *heard.borrow();
    // The others take it for work.
    send(links, &word_of_work(origin)).await?;
    let arrived = timeout(SELF_TEST_TIME_MAX, heard.wait_for(|heard| *heard > before)).await;
    Ok(arrived.is_ok())
}
