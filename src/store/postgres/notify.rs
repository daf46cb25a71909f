//! Wakes idle nodes when another node accepts work, and followers of the feed when it grows: one NOTIFY for
//! everything that was committed since the last. It is never sent in the transactions themselves, where it would make
//! them wait for each other. This is only an optimisation: every node that is awake also polls. Where notifications
//! do not arrive (a pooler loses them silently), it only polls.
//!
//! A node that knows no peers sends nothing. A node that joins sends a notification to prove to itself that it hears;
//! the others learn from it at once that there is a peer. A node that leaves while orders are open always says so,
//! because sleeping nodes are on no list.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};

use super::await_answer::await_answer;
use super::class_pool::ClassPool;
use super::classes::Class;
use super::connect::Connector;
use super::failure::PgFailure;
use super::pool::Pool;
use super::server_info::read_only_reason;
use super::servers::{Opened, RawConnection};
use super::shared::Shared;
use crate::log_lines::Latch;
use crate::store::News;

/// The shortest time between two notifications of one node.
const INTERVAL_MIN: Duration = Duration::from_millis(20);
/// The pause after a notification that could not be sent.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time for a notification to itself to arrive; after that, notifications count as lost.
const SELF_TEST_TIME_MAX: Duration = Duration::from_secs(5);
/// The pause between two attempts to listen.
const LISTEN_AGAIN_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after notifications did not arrive: a pooler stays a pooler, while a slow moment passes.
const LISTEN_AGAIN_INTERVAL_UNDELIVERED: Duration = Duration::from_mins(10);
/// The suffix of a notification about new work and new events; the sender's name comes before it.
const WORK: &str = " work";
/// The suffix of a notification about new events only, which claims ignore.
const ONLY_EVENTS: &str = " events";

/// Tells the other nodes what was committed here, and hears them over another way than notifications, until the store closes.
pub(super) async fn exchange(shared: Arc<Shared>, control: ClassPool, origin: String) {
    tokio::join!(notify(shared.clone(), control, origin), hear_peers(shared));
}

/// Sends a notification whenever `shared.peer_news` asks for one, until the store closes.
async fn notify(shared: Arc<Shared>, control: ClassPool, origin: String) {
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = shared.peer_news.notified() => {}
        }
        shared.unsent_news.store(true, Ordering::SeqCst);
        if !shared.has_peers.load(Ordering::SeqCst) {
            continue;
        }
        let work = shared.work_news.swap(false, Ordering::SeqCst);
        if let Some(peers) = &shared.peers {
            peers.send(if work { News::Work } else { News::Events });
        }
        let mark = if work { WORK } else { ONLY_EVENTS };
        let pause = match send(&control, &format!("{origin}{mark}")).await {
            Ok(()) => {
                shared.unsent_news.store(false, Ordering::SeqCst);
                INTERVAL_MIN
            }
            Err(failure) => {
                tracing::debug!(?failure, "cannot notify the other nodes; trying again");
                if work {
                    shared.work_news.store(true, Ordering::SeqCst);
                }
                shared.peer_news.notify_one();
                RETRY_INTERVAL
            }
        };
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Turns news that came over another way into wake-ups, until the store closes.
async fn hear_peers(shared: Arc<Shared>) {
    let Some(peers) = &shared.peers else { return };
    loop {
        let heard = tokio::select! {
            () = shared.closing.cancelled() => return,
            heard = peers.heard() => heard,
        };
        for news in heard {
            match news {
                News::Work => heard_of(&shared, true),
                News::Events => heard_of(&shared, false),
                News::Cancelled => shared.wakeups.notify_cancelled_elsewhere(),
            }
        }
    }
}

/// Makes the notification by which `origin` announces work.
pub(super) fn work_payload(origin: &str) -> String {
    format!("{origin}{WORK}")
}

async fn send(pool: &ClassPool, payload: &str) -> Result<(), PgFailure> {
    pool.execute_idempotent("select pg_notify('orderly', $1)", &[(&payload, Type::TEXT)])
        .await
        .map(drop)
}

/// The reason why listening ended.
enum Ended {
    /// The store closes.
    Closing,
    /// The connection is lost, or there was none.
    Lost,
    /// Notifications do not arrive over this route.
    Undelivered,
}

/// A route to the database without a pooler, for listening.
pub(super) struct ListenRoute {
    connector: Arc<Connector>,
    /// The route has its own URL, so no other use shows that it leads nowhere.
    is_separate: bool,
    /// Set while the log says that the route leads nowhere.
    unreachable: Latch,
}

impl ListenRoute {
    /// Returns the route of `DATABASE_DIRECT_URL`, otherwise that of `DATABASE_URL` unless it seems to lead to a
    /// pooler.
    pub fn of(
        direct: Option<Arc<Connector>>,
        default: &Arc<Connector>,
        looks_pooled: bool,
    ) -> Option<ListenRoute> {
        let is_separate = direct.is_some();
        let connector = direct.or_else(|| (!looks_pooled).then(|| default.clone()))?;
        Some(ListenRoute {
            connector,
            is_separate,
            unreachable: Latch::default(),
        })
    }

    /// Opens a connection for listening. Standbys do not offer that.
    async fn open(&self) -> Result<Opened, PgFailure> {
        let opened = self.connector.open().await?;
        if opened.server.is_standby {
            return Err(PgFailure::ReadOnly(read_only_reason(true).into()));
        }
        self.unreachable.clear();
        Ok(opened)
    }

    /// Logs once that there is no connection for listening. While the whole database is away that is no news.
    fn log_unreachable(&self, failure: &PgFailure) {
        tracing::debug!(?failure, "cannot listen for other nodes' notifications");
        let is_news = self.is_separate && !self.connector.state().is_away();
        if is_news && self.unreachable.set() {
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
    route: Option<ListenRoute>,
    control: ClassPool,
    origin: String,
) {
    let Some(route) = route else {
        return log_polling();
    };
    let undelivered = Latch::default();
    loop {
        let pause = match listen_once(&shared, &pool, &route, &control, &origin).await {
            Ended::Closing => return,
            Ended::Lost => LISTEN_AGAIN_INTERVAL,
            Ended::Undelivered => {
                if undelivered.set() {
                    log_polling();
                }
                LISTEN_AGAIN_INTERVAL_UNDELIVERED
            }
        };
        // Listening alone must not wake a sleeping database: it waits until the database is used again.
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = async {
                sleep(pause).await;
                route.connector.state().used().await;
            } => {}
        }
    }
}

fn log_polling() {
    tracing::info!(
        "notifications do not arrive over this way to the database (a pooler?): this node finds other nodes' orders by \
         polling; DATABASE_DIRECT_URL would name a way past a pooler"
    );
}

/// Listens until the connection ends. Waits until the node is on the list: peers do not notify a node that is on no
/// list, so it must not assume that it hears of every commit.
async fn listen_once(
    shared: &Shared,
    pool: &Arc<Pool>,
    route: &ListenRoute,
    control: &ClassPool,
    origin: &str,
) -> Ended {
    let mut listed = shared.listed.subscribe();
    tokio::select! {
        () = shared.closing.cancelled() => return Ended::Closing,
        _ = listed.wait_for(|listed| *listed) => {}
    }
    let Some(reservation) = pool.reserve(Class::Listen) else {
        return Ended::Lost;
    };
    let Opened {
        client, connection, ..
    } = match route.open().await {
        Ok(opened) => opened,
        Err(failure) => {
            route.log_unreachable(&failure);
            return Ended::Lost;
        }
    };
    let own = watch::Sender::new(0);
    let hear = read_notifications(connection, |payload| {
        if payload.starts_with(origin) {
            own.send_modify(|heard| *heard += 1);
        } else {
            heard_of(shared, !payload.ends_with(ONLY_EVENTS));
        }
    });
    let follow = async {
        match follow_peers(shared, &client, control, origin, &own).await {
            Ok(ended) => ended,
            Err(failure) => {
                tracing::debug!(?failure, "cannot listen for other nodes' notifications");
                Ended::Lost
            }
        }
    };
    let ended = tokio::select! {
        () = shared.closing.cancelled() => Ended::Closing,
        ended = follow => ended,
        () = hear => Ended::Lost,
        () = reservation.needed() => Ended::Lost,
        // Notifications now arrive on another server.
        () = pool.connector().server_left() => Ended::Lost,
    };
    shared.wakeups.set_hears_all(false);
    ended
}

/// Notes commits of another node.
fn heard_of(shared: &Shared, work: bool) {
    // Otherwise the peer would not hear of commits here until the next heartbeat.
    shared.set_has_peers(true);
    if work {
        shared.wakeups.notify_work();
        shared.wakeups.notify_timers();
    }
    shared.events_available();
}

/// Reads the messages of the connection until it ends.
async fn read_notifications(mut connection: RawConnection, mut hear: impl FnMut(&str)) {
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

/// Listens, and notes in `shared.wakeups` while this node hears of every commit: notifications arrive, and the others
/// know of it.
async fn follow_peers(
    shared: &Shared,
    client: &Client,
    control: &ClassPool,
    origin: &str,
    own: &watch::Sender<u64>,
) -> Result<Ended, PgFailure> {
    let mut listed = shared.listed.subscribe();
    await_answer(client.batch_execute("listen orderly")).await?;
    loop {
        // Tested each time: nodes that joined while this node was on no list do not know of it.
        if !hears_itself(control, origin, own).await? {
            // A pooler may keep the server's session, which still listens.
            await_answer(client.batch_execute("unlisten *")).await?;
            return Ok(Ended::Undelivered);
        }
        shared.wakeups.set_hears_all(true);
        let _ = listed.wait_for(|listed| !*listed).await;
        shared.wakeups.set_hears_all(false);
        let _ = listed.wait_for(|listed| *listed).await;
    }
}

/// Reports whether a notification that this node sends arrives at itself.
async fn hears_itself(
    control: &ClassPool,
    origin: &str,
    own: &watch::Sender<u64>,
) -> Result<bool, PgFailure> {
    let mut heard = own.subscribe();
    let before = *heard.borrow();
    // The other nodes take it for work.
    send(control, &work_payload(origin)).await?;
    let arrived = timeout(SELF_TEST_TIME_MAX, heard.wait_for(|heard| *heard > before)).await;
    Ok(arrived.is_ok())
}
