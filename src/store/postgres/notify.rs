//! Wakes the nodes that wait for work when another accepts some: one NOTIFY for all that was committed since the last,
//! never in the transactions themselves, where it would make them wait for each other. Only an optimisation: every node
//! also polls, and where notifications do not arrive (through a pooler they are lost without a word) it does nothing
//! else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};

use super::connect::{Connector, RawConnection, answered};
use super::failure::Failure;
use super::links::Links;
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
/// Notifications that are held for the listener; what they say is all the same.
const NOTIFICATIONS_WAITING_MAX: usize = 64;

/// Sends what `shared.news` asks for, until the store closes.
pub(super) async fn notify(shared: Arc<Shared>, links: Arc<Links>, origin: String) {
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = shared.news.notified() => {}
        }
        shared.untold.store(true, Ordering::SeqCst);
        if !shared.others.load(Ordering::SeqCst) {
            continue;
        }
        let pause = match send(&links, &origin).await {
            Ok(()) => {
                shared.untold.store(false, Ordering::SeqCst);
                INTERVAL_MIN
            }
            Err(failure) => {
                tracing::debug!(?failure, "the other nodes could not be notified");
                RETRY_INTERVAL
            }
        };
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
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

/// Turns the other nodes' notifications into wake-ups, until the store closes.
pub(super) async fn listen(
    shared: Arc<Shared>,
    connector: Arc<Connector>,
    links: Arc<Links>,
    origin: String,
) {
    let mut told = false;
    loop {
        let pause;
        match listen_once(&shared, &connector, &links, &origin).await {
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
                connector.state().used().await;
            } => {}
        }
    }
}

pub(super) fn tell_of_polling() {
    tracing::info!(
        "notifications do not arrive over this way to the database (a pooler?): this node finds other nodes' orders by \
         polling; DATABASE_DIRECT_URL would name a way past a pooler"
    );
}

async fn listen_once(shared: &Shared, connector: &Connector, links: &Links, origin: &str) -> Ended {
    let (client, connection) = match connector.open().await {
        Ok(opened) => opened,
        Err(failure) => {
            tracing::debug!(?failure, "cannot listen for other nodes' notifications");
            return Ended::Lost;
        }
    };
    let (sender, mut notifications) = mpsc::channel(NOTIFICATIONS_WAITING_MAX);
    let drive = drive(connection, sender);
    let receive = async {
        match prove(&client, links, origin, &mut notifications).await {
            Ok(true) => {}
            Ok(false) => return Ended::Deaf,
            Err(failure) => {
                tracing::debug!(?failure, "cannot listen for other nodes' notifications");
                return Ended::Lost;
            }
        }
        while let Some(payload) = notifications.recv().await {
            if payload != origin {
                shared.wakeups.notify_work();
            }
        }
        Ended::Lost
    };
    tokio::select! {
        () = shared.closing.cancelled() => Ended::Closing,
        ended = receive => ended,
        () = drive => Ended::Lost,
    }
}

/// Reads the connection's messages to its end.
async fn drive(mut connection: RawConnection, notifications: mpsc::Sender<String>) {
    let mut messages = poll_fn(move |context| connection.poll_message(context));
    while let Some(message) = messages.next().await {
        match message {
            Ok(AsyncMessage::Notification(notification)) => {
                // When many wait to be looked at, one more says nothing new.
                let _ = notifications.try_send(notification.payload().to_owned());
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "the connection that listens ended");
                return;
            }
        }
    }
}

/// Whether a notification sent the usual way arrives here.
async fn prove(
    client: &Client,
    links: &Links,
    origin: &str,
    notifications: &mut mpsc::Receiver<String>,
) -> Result<bool, Failure> {
    answered(client.batch_execute("listen orderly")).await?;
    send(links, origin).await?;
    let heard_back = async {
        while let Some(payload) = notifications.recv().await {
            if payload == origin {
                return true;
            }
        }
        false
    };
    let arrived = timeout(SELF_TEST_TIME_MAX, heard_back).await.unwrap_or(false);
    if !arrived {
        // A pooler may have left the server's session listening.
        answered(client.batch_execute("unlisten *")).await?;
    }
    Ok(arrived)
}
