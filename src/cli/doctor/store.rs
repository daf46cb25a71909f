//! Checks the store: it can be read or created and is durable, its orders flow, and the clock agrees with it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{ASK_TIME_MAX, Check, Finding, advice};
use crate::causes::with_causes;
use crate::config::Database;
use crate::diagnosis;
use crate::store::clock::system_clock;
use crate::store::open::{self, OpenError};
use crate::store::snapshot::{ConnectionBudget, FeedState, Standbys, newest_time};
use crate::store::vitals::LongTransaction;
use crate::store::{QueueState, Snapshot, StoreError, Vitals};

/// Maximum lead of a stored time over the clock: two readings of one clock, or of two synchronized clocks.
const CLOCK_AHEAD_WARN: Duration = Duration::from_secs(2);
const NO_MIGRATION: &str = "run `orderly migrate`: with ORDERLY_MIGRATE=off a start does not migrate";

/// Facts about a store, as far as it can be read.
#[derive(Default)]
pub(super) struct Facts {
    /// What opening it and its contents show.
    pub contents: Option<Finding>,
    /// The reason why nothing can be stored, if it can only be read.
    pub only_reads: Option<String>,
    pub weaknesses: Option<Vec<String>>,
    pub standbys: Option<Standbys>,
    /// Read first, since a locked table holds up the rest.
    pub transactions: Vec<LongTransaction>,
    pub vitals: Option<Vitals>,
    pub room: Option<ConnectionBudget>,
    pub feed: Option<FeedState>,
    /// Lead of its newest time over this machine's clock.
    pub ahead: Option<Duration>,
    /// The error that left the rest unread.
    pub unread: Option<Finding>,
}

impl Facts {
    /// Reads the store, within [`ASK_TIME_MAX`]. `migrates` is true if a start creates or changes the schema.
    pub async fn of(database: &Database, migrates: bool) -> Facts {
        let deadline = Instant::now() + ASK_TIME_MAX;
        let mut facts = Facts::default();
        let late = || {
            let text = format!("no answer within {ASK_TIME_MAX:?}");
            let advice = advice::of(database, &text);
            Finding::fail(text, advice)
        };
        match timeout_at(deadline, open::open_snapshot(database)).await {
            Ok(Ok(mut snapshot)) => match timeout_at(deadline, facts.read(database, &mut *snapshot)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => facts.unread = Some(failed(database, with_causes(&error))),
                Err(_) => facts.unread = Some(late()),
            },
            // A file may exist without a schema in it.
            Ok(Err(OpenError::Missing { .. } | OpenError::SchemaOlder { found: 0, .. })) => {
                let rehearsed = timeout_at(deadline, missing(database, migrates)).await;
                facts.contents = Some(rehearsed.unwrap_or_else(|_| late()));
            }
            Ok(Err(error)) => facts.contents = Some(unopened(database, &error, migrates)),
            Err(_) => facts.contents = Some(late()),
        }
        facts
    }

    pub fn queue(&self) -> Option<&QueueState> {
        self.vitals.as_ref().map(|vitals| &vitals.queue)
    }

    /// Judges whether orders flow, and adds the numbers it rests on.
    pub fn flow(&self, settings: &diagnosis::Settings) -> Vec<Check> {
        let (found, numbers) = match &self.vitals {
            Some(vitals) => (diagnosis::diagnose(vitals, settings), Some(numbers(vitals))),
            None => (diagnosis::diagnose_sessions(&self.transactions), None),
        };
        let found = found
            .into_iter()
            .map(|found| (found.rule.name(), Finding::from(found)));
        let numbers = numbers.map(|numbers| ("orders", Finding::ok(numbers)));
        found.chain(numbers).collect()
    }

    async fn read(&mut self, database: &Database, snapshot: &mut dyn Snapshot) -> Result<(), StoreError> {
        self.transactions = snapshot.transactions().await?;
        self.only_reads = snapshot.only_reads().await?;
        let vitals = snapshot.vitals().await?;
        self.contents = Some(contents(database, &vitals.queue));
        self.vitals = Some(vitals);
        self.weaknesses = Some(snapshot.weaknesses().await?);
        self.standbys = snapshot.standbys().await?;
        self.room = snapshot.connection_budget().await?;
        self.feed = Some(snapshot.feed().await?);
        let newest = newest_time(snapshot).await?;
        self.ahead = Some(newest.map_or(Duration::ZERO, |newest| newest.since(system_clock()())));
        Ok(())
    }
}

/// Writes the numbers that an operator always wants to know.
fn numbers(vitals: &Vitals) -> String {
    let (queue, activity) = (&vitals.queue, &vitals.activity);
    let alive = queue.nodes.iter().filter(|node| node.alive);
    let (nodes, slots, busy) = alive.fold((0_u64, 0_u64, 0_u64), |(nodes, slots, busy), node| {
        (
            nodes + 1,
            slots + u64::from(node.slots),
            busy + u64::from(node.busy.min(node.slots)),
        )
    });
    let ago = |span: Duration| humantime::format_duration(Duration::from_secs(span.as_secs())).to_string();
    let oldest = queue.oldest_waiting.map_or_else(
        || "none waits for its start".to_owned(),
        |age| format!("the oldest for {}", ago(age)),
    );
    let last_start = vitals.last_start_at().map_or_else(
        || "unknown".to_owned(),
        |at| format!("{} ago", ago(vitals.read_at.since(at))),
    );
    format!(
        "{} pending, {oldest}; last start {last_start}; {busy} of {slots} slots busy on {}; last 5 min (stored once a minute): {} accepted, {} started, {} completed, {} failed",
        queue.counters.pending,
        diagnosis::counted(nodes, "live node"),
        activity.accepted,
        activity.started,
        activity.completed,
        activity.failed
    )
}

fn failed(database: &Database, text: String) -> Finding {
    let advice = advice::of(database, &text);
    Finding::fail(text, advice)
}

/// Rehearses the first start.
async fn missing(database: &Database, migrates: bool) -> Finding {
    let finding = format!("no store at {}", open::location(database));
    if !migrates {
        return Finding::fail(finding, NO_MIGRATION);
    }
    match open::rehearse(database).await {
        Ok(()) => Finding::warn(finding, "the first start creates it: run `orderly serve`"),
        Err(error) => {
            let reason = with_causes(&error);
            let advice = advice::of(database, &reason);
            Finding::fail(format!("{finding}, and none can be created: {reason}"), advice)
        }
    }
}

fn unopened(database: &Database, error: &OpenError, migrates: bool) -> Finding {
    let finding = with_causes(error);
    match error {
        OpenError::Missing { .. } => {
            Finding::warn(finding, "the first start creates it: run `orderly serve`")
        }
        OpenError::SchemaOlder { .. } | OpenError::FunctionsMissing { .. } if !migrates => {
            Finding::fail(finding, NO_MIGRATION)
        }
        OpenError::SchemaOlder { .. } | OpenError::FunctionsMissing { .. } => {
            Finding::warn(finding, "run `orderly migrate`, or let `orderly serve` do it")
        }
        OpenError::SchemaNewer { .. } => {
            Finding::fail(finding, "use the newest version that ran on this store")
        }
        OpenError::SchemaDiffers { .. } => Finding::fail(
            finding,
            "see Upgrading in docs/OPERATIONS.md for changing from one build to another",
        ),
        OpenError::NotDurable { .. } => Finding::fail(finding, "change that setting of the database"),
        OpenError::Unsuitable { .. } => Finding::fail(finding, "change it, or use another database"),
        OpenError::InUse { .. } => Finding::fail(finding, "stop the other process first"),
        OpenError::Unavailable { .. } => failed(database, finding),
    }
}

pub(super) fn judge_writes(database: &Database, reason: &str) -> Finding {
    let advice = match database {
        Database::Sqlite(_) => {
            "orders can be read but none stored: check the permissions of the file and its folder, and how it is mounted"
        }
        Database::Postgres(_) => {
            "orders can be read but none stored: point DATABASE_URL at the server that takes writes (behind HAProxy, \
             the port whose check is /primary), or check default_transaction_read_only"
        }
    };
    Finding::fail(reason, advice)
}

/// `orderly verify` looks for damage; that reads everything.
fn contents(database: &Database, queue: &QueueState) -> Finding {
    let counters = &queue.counters;
    Finding::ok(format!(
        "{}: {} orders, {} pending, {} processing, {} failed",
        open::location(database),
        counters.total(),
        counters.pending,
        counters.processing,
        counters.failed
    ))
}

pub(super) fn judge_durability(weaknesses: &[String]) -> Finding {
    if weaknesses.is_empty() {
        return Finding::ok("confirmed orders are durable");
    }
    Finding::fail(
        weaknesses.join("; "),
        "until you change it, an order answered with 201 can be lost: the setting may come from the server, the \
         database, the role, the URL's `options`, the pooler, or Patroni (`patronictl edit-config`)",
    )
}

pub(super) fn judge_clock(database: &Database, ahead: Duration) -> Finding {
    if ahead > CLOCK_AHEAD_WARN {
        let ahead = humantime::format_duration(Duration::from_secs(ahead.as_secs()));
        let advice = match database {
            Database::Sqlite(_) => {
                "set the clock; until real time has caught up, retries and leases take longer"
            }
            Database::Postgres(_) => {
                "set the clock: leases and retries use the database's clock, but the times in this node's log and in the \
                 signatures of its deliveries are wrong"
            }
        };
        Finding::warn(
            format!("the newest time in the store is {ahead} ahead of this clock"),
            advice,
        )
    } else {
        Finding::ok("not behind the store")
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_clock_behind_the_store_is_a_warning() {
        let state = |ahead| judge_clock(&Database::Sqlite("orderly.db".into()), ahead).state;
        assert_eq!(state(Duration::ZERO), State::Ok);
        assert_eq!(state(Duration::from_hours(1)), State::Warn);
    }

    #[test]
    fn a_weak_setting_fails_and_is_named() {
        assert_eq!(judge_durability(&[]).state, State::Ok);
        let weak = judge_durability(&["fsync is off".to_owned(), "synchronous_commit is off".to_owned()]);
        assert_eq!(weak.state, State::Fail);
        assert_eq!(weak.text, "fsync is off; synchronous_commit is off");
    }
}
