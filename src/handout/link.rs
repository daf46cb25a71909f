//! The connection to Redis: bounded in time, and left alone for a while after a failure, which is said once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, PubSub};
use redis::{Client, Cmd, FromRedisValue, Pipeline, RedisError, ScriptInvocation};
use tokio::time::{Instant, timeout};

use crate::config::RedisServer;
use crate::log_lines::Latch;

/// Maximum time for an answer. Redis answers within a millisecond, or is no help.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);
/// Maximum time to connect.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(500);
/// Maximum time for a command, connecting included.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(1);
/// Time for which Redis is left alone after the first failure; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

pub(super) struct Link {
    client: Client,
    manager: ConnectionManager,
    /// Scheme, host and port.
    location: String,
    away: Mutex<Option<Away>>,
    logged: Latch,
    /// Counts answers after failures.
    returns: AtomicU64,
}

/// A failure since the last answer.
struct Away {
    reason: String,
    /// A write failed: a Redis without memory still answers reads.
    by_write: bool,
    pause: Duration,
    until: Instant,
}

/// Reason why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// It was not sent: an earlier one failed a moment ago.
    #[error("Redis is left alone for a moment")]
    Away,
    #[error("no answer within {COMMAND_TIME_MAX:?}")]
    Late,
    #[error(transparent)]
    Redis(#[from] RedisError),
}

impl LinkError {
    pub fn has_code(&self, code: &str) -> bool {
        let LinkError::Redis(error) = self else {
            return false;
        };
        // An error within a pipeline has no code of its own.
        let errors = error.clone().into_server_errors();
        errors.is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == code))
    }
}

impl Link {
    pub fn new(server: &RedisServer) -> Link {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT_TIME_MAX))
            .set_response_timeout(Some(ANSWER_TIME_MAX));
        let manager = server
            .client
            .get_connection_manager_lazy(config)
            .expect("the configuration has no listener that could be refused");
        Link {
            client: server.client.clone(),
            manager,
            location: server.location.clone(),
            away: Mutex::default(),
            logged: Latch::default(),
            returns: AtomicU64::new(0),
        }
    }

    /// Runs a command whose fate says nothing about the stream: news and numbers may work while orders cannot be added.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LinkError> {
        if self.is_away() {
            return Err(LinkError::Away);
        }
        let mut manager = self.manager.clone();
        in_time(async { command.query_async(&mut manager).await }).await
    }

    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LinkError> {
        let mut manager = self.manager.clone();
        self.judged(false, async { command.query_async(&mut manager).await })
            .await
    }

    /// Runs a command that needs memory.
    pub async fn write<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LinkError> {
        let mut manager = self.manager.clone();
        self.judged(true, async { command.query_async(&mut manager).await })
            .await
    }

    pub async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, LinkError> {
        let mut manager = self.manager.clone();
        self.judged(false, async { commands.query_async(&mut manager).await })
            .await
    }

    /// Runs a script that needs memory.
    pub async fn write_script<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, LinkError> {
        let mut manager = self.manager.clone();
        self.judged(true, async { script.invoke_async(&mut manager).await })
            .await
    }

    pub async fn ask_script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, LinkError> {
        if self.is_away() {
            return Err(LinkError::Away);
        }
        let mut manager = self.manager.clone();
        in_time(async { script.invoke_async(&mut manager).await }).await
    }

    /// Opens a connection that listens to the channel.
    pub async fn listener(&self, channel: &str) -> Result<PubSub, LinkError> {
        if self.is_away() {
            return Err(LinkError::Away);
        }
        in_time(async {
            let mut listener = self.client.get_async_pubsub().await?;
            listener.subscribe(channel).await?;
            Ok(listener)
        })
        .await
    }

    /// Returns why Redis cannot be used; `None` while it answers.
    pub fn trouble(&self) -> Option<String> {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.as_ref().map(|away| away.reason.clone())
    }

    /// Returns how often Redis answered again after a failure: it may have lost something each time.
    pub fn returns(&self) -> u64 {
        self.returns.load(Ordering::SeqCst)
    }

    fn is_away(&self) -> bool {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.as_ref().is_some_and(|away| Instant::now() < away.until)
    }

    async fn judged<T>(
        &self,
        is_write: bool,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, LinkError> {
        if self.is_away() {
            return Err(LinkError::Away);
        }
        let answer = in_time(call).await;
        match &answer {
            Ok(_) => self.answered(is_write),
            // Redis works, and the next look at the stream tells more.
            Err(error) if is_about_the_stream(error) => {}
            Err(error) => self.failed(&error.to_string(), is_write),
        }
        answer
    }

    fn answered(&self, is_write: bool) {
        let was_away = {
            let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
            away.take_if(|away| is_write || !away.by_write)
        };
        if was_away.is_none() {
            return;
        }
        self.returns.fetch_add(1, Ordering::SeqCst);
        if self.logged.clear() {
            tracing::info!("Redis at {} hands out the work again", self.location);
        }
    }

    fn failed(&self, reason: &str, is_write: bool) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = away
            .as_ref()
            .map_or(PAUSE_MIN, |away| (away.pause * 2).min(PAUSE_MAX));
        *away = Some(Away {
            reason: reason.to_owned(),
            by_write: is_write,
            pause,
            until: Instant::now() + pause,
        });
        drop(away);
        if self.logged.set() {
            tracing::warn!(
                "Redis at {} cannot be used ({reason}): nodes claim from the database until it can; orders are accepted and \
                 processed as without it. `orderly doctor` says what to do",
                self.location
            );
        }
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, RedisError>>) -> Result<T, LinkError> {
    match timeout(COMMAND_TIME_MAX, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(LinkError::Late),
    }
}

/// Reports whether Redis answered that a stream or group is missing or exists already: it works.
fn is_about_the_stream(error: &LinkError) -> bool {
    error.has_code("NOGROUP") || error.has_code("BUSYGROUP")
}
