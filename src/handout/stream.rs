//! The stream of orders that wait, and the group of nodes that take from it. Commands of Redis 7.0 and Valkey only.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering as Atomic};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use redis::streams::{StreamAutoClaimReply, StreamId, StreamInfoConsumersReply, StreamReadReply};
use redis::{FromRedisValue, Script, cmd, pipe};
use tokio::sync::mpsc;

use super::link::{Link, LinkError};
use crate::order::OrderId;

/// Entries from which on no more are added: claims from the store, which holds any number of orders, go on until they have caught
/// up. Bounds the memory of Redis to some megabytes.
pub(super) const ENTRIES_MAX: usize = 100_000;
/// Field of an entry.
const FIELD: &str = "o";
pub(super) const GROUP: &str = "nodes";
/// Time after which other nodes may take over an entry that a node took and did not finish: starting takes milliseconds.
pub(super) const ABANDONED_AFTER: Duration = Duration::from_secs(10);
/// Entries that one step takes over.
const TAKE_OVER_MAX: usize = 100;
/// Time after which a node that takes nothing is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);
/// Groups of entries that wait to be acknowledged. Entries of more groups come again, and wait no more then.
const FINISHED_WAITING_MAX: usize = 1_024;

/// Adds orders, unless nodes claim from the store because the stream lacks orders. Returns the id of the last entry, or null.
static ADD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('exists', KEYS[2]) == 1 then return false end
         if redis.call('xlen', KEYS[1]) >= tonumber(ARGV[1]) then redis.call('set', KEYS[2], 'full') return false end
         local last
         for i = 4, #ARGV do last = redis.call('xadd', KEYS[1], '*', ARGV[2], ARGV[i]) end
         redis.call('publish', KEYS[3], ARGV[3])
         return last",
    )
});

/// Takes a node out of the group if it has finished all that it took: Redis forgets the entries of a node with the node, and other
/// nodes could not take them over.
static LEAVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local taken = redis.call('xpending', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
         if #taken == 0 then redis.call('xgroup', 'delconsumer', KEYS[1], ARGV[1], ARGV[2]) end",
    )
});

/// An order in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    id: String,
    pub order_id: OrderId,
}

pub(super) struct Stream {
    pub link: Link,
    pub key: String,
    /// Exists while nodes claim from the store, because the stream lacks orders.
    fallback_key: String,
    pub channel: String,
    /// This node, in the group and as the sender of messages.
    pub node: String,
    /// Users' orders wait for each other, so that nothing is added.
    news_only: AtomicBool,
    /// No node adds, by the latest answer of Redis, and claims go to the store.
    in_fallback: AtomicBool,
    /// The number of times that Redis had returned when this node last looked at the stream; `u64::MAX` before the first look.
    ready_since: AtomicU64,
    /// Orders of this node never reached the stream.
    dropped: AtomicBool,
    last_added: Mutex<Option<EntryTime>>,
    finished: mpsc::Sender<Vec<String>>,
}

impl Stream {
    /// The receiver is for [`finish`].
    pub fn new(link: Link, prefix: &str) -> (Stream, mpsc::Receiver<Vec<String>>) {
        let (finished, to_finish) = mpsc::channel(FINISHED_WAITING_MAX);
        // The braces keep the keys in one slot of a cluster.
        let stream = Stream {
            link,
            key: format!("{{{prefix}}}:orders"),
            fallback_key: format!("{{{prefix}}}:fallback"),
            channel: format!("{{{prefix}}}:news"),
            node: format!("{:016x}", rand::random::<u64>()),
            news_only: AtomicBool::new(false),
            in_fallback: AtomicBool::new(true),
            ready_since: AtomicU64::new(u64::MAX),
            dropped: AtomicBool::new(false),
            last_added: Mutex::default(),
            finished,
        };
        (stream, to_finish)
    }

    /// Notes that no order goes through the stream.
    pub fn carries_news_only(&self) {
        self.news_only.store(true, Atomic::SeqCst);
    }

    pub fn has_news_only(&self) -> bool {
        self.news_only.load(Atomic::SeqCst)
    }

    /// Reports whether orders come through the stream, so that claims from the store are only a safety net.
    pub fn is_used(&self) -> bool {
        !self.in_fallback.load(Atomic::SeqCst) && self.link.trouble().is_none()
    }

    /// Adds orders in this order. Those that cannot be added are found by claims from the store.
    pub async fn add(&self, order_ids: &[OrderId]) {
        if self.try_add(order_ids).await.is_err() {
            self.note_dropped();
        }
    }

    async fn try_add(&self, order_ids: &[OrderId]) -> Result<(), LinkError> {
        self.make_ready().await?;
        let mut add = ADD.prepare_invoke();
        add.key(&self.key).key(&self.fallback_key).key(&self.channel);
        add.arg(ENTRIES_MAX)
            .arg(FIELD)
            .arg(super::news::work_message(&self.node));
        for id in order_ids {
            add.arg(id.0);
        }
        let last: Option<String> = self.link.write_script(&add).await?;
        self.in_fallback.store(last.is_none(), Atomic::SeqCst);
        if let Some(last) = last.as_deref().and_then(EntryTime::parse) {
            let mut known = self.last_added();
            *known = (*known).max(Some(last));
        }
        Ok(())
    }

    /// Notes that an order was not added: claims from the store go first until they have caught up.
    pub fn note_dropped(&self) {
        self.dropped.store(true, Atomic::SeqCst);
        self.in_fallback.store(true, Atomic::SeqCst);
        // The next look at the stream tells the other nodes.
        self.ready_since.store(u64::MAX, Atomic::SeqCst);
    }

    /// Takes up to `count` orders; none if there are none or Redis cannot be used.
    pub async fn take(&self, count: usize) -> Vec<Entry> {
        if count == 0 {
            return Vec::new();
        }
        self.try_take(count).await.unwrap_or_default()
    }

    async fn try_take(&self, count: usize) -> Result<Vec<Entry>, LinkError> {
        self.make_ready().await?;
        let mut commands = pipe();
        commands
            .cmd("XREADGROUP")
            .arg("GROUP")
            .arg(GROUP)
            .arg(&self.node)
            .arg("COUNT")
            .arg(count)
            .arg("STREAMS")
            .arg(&self.key)
            .arg(">");
        commands.cmd("EXISTS").arg(&self.fallback_key);
        let answer = self.link.run_all::<(StreamReadReply, bool)>(&commands).await;
        let (read, in_fallback) = answer.inspect_err(|error| {
            if error.has_code("NOGROUP") {
                // The stream was removed: the next call looks again.
                self.ready_since.store(u64::MAX, Atomic::SeqCst);
            }
        })?;
        self.in_fallback.store(in_fallback, Atomic::SeqCst);
        Ok(self.own_entries(read.keys.into_iter().flat_map(|key| key.ids)))
    }

    /// Keeps the entries of this program and removes others.
    fn own_entries(&self, found: impl Iterator<Item = StreamId>) -> Vec<Entry> {
        let mut foreign = Vec::new();
        let entries = found
            .filter_map(|entry| Entry::of(entry).map_err(|id| foreign.push(id)).ok())
            .collect();
        if !foreign.is_empty() {
            self.finish_ids(foreign);
        }
        entries
    }

    /// Acknowledges and removes entries, soon.
    pub fn finish(&self, entries: Vec<Entry>) {
        self.finish_ids(entries.into_iter().map(|entry| entry.id).collect());
    }

    fn finish_ids(&self, ids: Vec<String>) {
        // Fails after the end of the node's tasks, and when Redis has not answered for long: others take the entries over.
        let _ = self.finished.try_send(ids);
    }

    /// Lets nodes add to the stream again, after a claim found the lines of the store empty.
    pub async fn end_fallback(&self) {
        if !self.in_fallback.load(Atomic::SeqCst) {
            return;
        }
        let ended = async {
            self.make_ready().await?;
            self.link.run::<()>(cmd("DEL").arg(&self.fallback_key)).await
        };
        if ended.await.is_ok() {
            self.in_fallback.store(false, Atomic::SeqCst);
        }
    }

    /// Makes sure that the group exists. Where the stream is new, or lost entries, or this node could not add some, claims from the
    /// store go first.
    async fn make_ready(&self) -> Result<(), LinkError> {
        let returns = self.link.returns();
        if self.ready_since.load(Atomic::SeqCst) == returns {
            return Ok(());
        }
        let create = cmd("XGROUP")
            .arg("CREATE")
            .arg(&self.key)
            .arg(GROUP)
            .arg("0")
            .arg("MKSTREAM")
            .to_owned();
        let is_new = match self.link.run::<()>(&create).await {
            Ok(()) => true,
            Err(error) if error.has_code("BUSYGROUP") => false,
            Err(error) => return Err(error),
        };
        let lost = is_new || self.dropped.load(Atomic::SeqCst) || self.has_lost_entries().await?;
        if lost {
            let set = cmd("SET").arg(&self.fallback_key).arg("behind").to_owned();
            self.link.write::<()>(&set).await?;
            self.in_fallback.store(true, Atomic::SeqCst);
            self.dropped.store(false, Atomic::SeqCst);
            *self.last_added() = None;
        }
        self.ready_since.store(returns, Atomic::SeqCst);
        Ok(())
    }

    /// Reports whether the stream is older than what this node added: it was restored from a copy, or a replica took over.
    async fn has_lost_entries(&self) -> Result<bool, LinkError> {
        let Some(added) = *self.last_added() else {
            return Ok(false);
        };
        let info = cmd("XINFO").arg("STREAM").arg(&self.key).to_owned();
        let info: redis::streams::StreamInfoStreamReply = self.link.run(&info).await?;
        Ok(EntryTime::parse(&info.last_generated_id).is_none_or(|last| last < added))
    }

    fn last_added(&self) -> std::sync::MutexGuard<'_, Option<EntryTime>> {
        self.last_added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes this node out of the group, unless it holds entries.
    pub async fn leave(&self) {
        if self.has_news_only() {
            return;
        }
        if let Err(error) = self.forget(&self.node).await {
            tracing::debug!(%error, "cannot leave the group of nodes in Redis; the others forget this node");
        }
    }

    async fn forget(&self, node: &str) -> Result<(), LinkError> {
        let mut leave = LEAVE.prepare_invoke();
        leave.key(&self.key).arg(GROUP).arg(node);
        self.link.ask_script(&leave).await
    }

    pub async fn acknowledge(&self, ids: &[String]) -> Result<(), LinkError> {
        let mut commands = pipe();
        // An entry that is acknowledged and not removed would stay for ever.
        commands.atomic();
        commands.cmd("XDEL").arg(&self.key).arg(ids).ignore();
        commands.cmd("XACK").arg(&self.key).arg(GROUP).arg(ids).ignore();
        self.link.run_all(&commands).await
    }

    /// Adds what a dead or frozen node took and did not finish once more, and forgets nodes that are gone.
    pub async fn take_over(&self) -> Result<(), LinkError> {
        self.make_ready().await?;
        let claim = cmd("XAUTOCLAIM")
            .arg(&self.key)
            .arg(GROUP)
            .arg(&self.node)
            .arg(millis(ABANDONED_AFTER))
            .arg("0-0")
            .arg("COUNT")
            .arg(TAKE_OVER_MAX)
            .to_owned();
        let found: StreamAutoClaimReply = self.link.run(&claim).await?;
        let entries = self.own_entries(found.claimed.into_iter());
        if !entries.is_empty() {
            let order_ids: Vec<OrderId> = entries.iter().map(|entry| entry.order_id).collect();
            self.try_add(&order_ids).await?;
            let ids: Vec<String> = entries.into_iter().map(|entry| entry.id).collect();
            self.acknowledge(&ids).await?;
        }
        let consumers = cmd("XINFO").arg("CONSUMERS").arg(&self.key).arg(GROUP).to_owned();
        let consumers: StreamInfoConsumersReply = self.link.run(&consumers).await?;
        let gone = consumers.consumers.into_iter().filter(|consumer| {
            consumer.pending == 0
                && consumer.idle as u128 > FORGOTTEN_AFTER.as_millis()
                && consumer.name != self.node
        });
        for consumer in gone {
            self.forget(&consumer.name).await?;
        }
        Ok(())
    }
}

impl Entry {
    /// The error is the id of an entry that this program did not write, or whose content was deleted.
    fn of(entry: StreamId) -> Result<Entry, String> {
        let value = entry.map.get(FIELD);
        let order_id = value.and_then(|value| i64::from_redis_value_ref(value).ok());
        match order_id {
            Some(order_id) => Ok(Entry {
                id: entry.id,
                order_id: OrderId(order_id),
            }),
            None => Err(entry.id),
        }
    }
}

/// The time and number in the id of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct EntryTime(u64, u64);

impl EntryTime {
    fn parse(id: &str) -> Option<EntryTime> {
        let (millis, number) = id.split_once('-')?;
        Some(EntryTime(millis.parse().ok()?, number.parse().ok()?))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_entries_are_compared_as_numbers() {
        let time = |id| EntryTime::parse(id).unwrap();
        assert!(time("9-1") < time("10-0"));
        assert!(time("10-9") < time("10-10"));
        assert_eq!(EntryTime::parse("0"), None);
    }
}
