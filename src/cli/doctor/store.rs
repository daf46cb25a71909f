//! Checks the store: it can be read or created, is sound and durable, its orders move, and the clock agrees with it.

use std::time::Duration;

use super::{Finding, advice};
use crate::causes::with_causes;
use crate::config::Database;
use crate::store::clock::system_clock;
use crate::store::open::{self, OpenError};
use crate::store::snapshot::{ConnectionBudget, FeedState, Standbys, newest_time};
use crate::store::{QueueState, Snapshot, StoreError};

/// Waiting time of a startable order above which slots are too few or a node is stuck.
const WAIT_WARN: Duration = Duration::from_mins(5);
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
    pub queue: Option<QueueState>,
    pub room: Option<ConnectionBudget>,
    pub feed: Option<FeedState>,
    /// Lead of its newest time over this machine's clock.
    pub ahead: Option<Duration>,
    /// The error that left the rest unread.
    pub unread: Option<Finding>,
}

impl Facts {
    /// Reads the store. `migrates` is true if a start creates or changes the schema.
    pub async fn of(database: &Database, migrates: bool) -> Facts {
        let mut facts = Facts::default();
        match open::open_snapshot(database).await {
            Ok(mut snapshot) => {
                if let Err(error) = facts.read(database, &mut *snapshot).await {
                    facts.unread = Some(failed(database, with_causes(&error)));
                }
            }
            // A file may exist without a schema in it.
            Err(OpenError::Missing { .. } | OpenError::SchemaOlder { found: 0, .. }) => {
                facts.contents = Some(missing(database, migrates).await);
            }
            Err(error) => facts.contents = Some(unopened(database, &error, migrates)),
        }
        facts
    }

    async fn read(&mut self, database: &Database, snapshot: &mut dyn Snapshot) -> Result<(), StoreError> {
        self.contents = Some(contents(database, snapshot).await?);
        self.only_reads = snapshot.only_reads().await?;
        self.weaknesses = Some(snapshot.weaknesses().await?);
        self.standbys = snapshot.standbys().await?;
        self.queue = Some(snapshot.queue().await?);
        self.room = snapshot.connection_budget().await?;
        self.feed = Some(snapshot.feed().await?);
        let newest = newest_time(snapshot).await?;
        self.ahead = Some(newest.map_or(Duration::ZERO, |newest| newest.since(system_clock()())));
        Ok(())
    }
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

async fn contents(database: &Database, snapshot: &mut dyn Snapshot) -> Result<Finding, StoreError> {
    let location = open::location(database);
    let damage = snapshot.damage().await?;
    if let Some(first) = damage.first() {
        let finding = format!(
            "{location} is damaged: {} findings, the first: {first}",
            damage.len()
        );
        let advice = match database {
            Database::Sqlite(_) => "stop the server, keep a copy of the files, restore a backup",
            Database::Postgres(_) => "stop all nodes, keep a dump, restore a backup",
        };
        return Ok(Finding::fail(finding, advice));
    }
    let counters = snapshot.counters().await?;
    let finding = format!(
        "{location} is sound: {} orders, {} pending, {} processing, {} failed",
        counters.total(),
        counters.pending,
        counters.processing,
        counters.failed
    );
    Ok(Finding::ok(finding))
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

pub(super) fn judge_queue(queue: &QueueState) -> Finding {
    let alive = queue.nodes.iter().filter(|node| node.alive).count();
    let waiting = queue.oldest_waiting.filter(|age| *age > WAIT_WARN);
    let unfinished = queue.counters.pending + queue.counters.processing;
    let finding = format!(
        "{}, {alive} of {} nodes alive{}",
        if queue.paused { "paused" } else { "running" },
        queue.nodes.len(),
        waiting.map_or_else(String::new, |age| format!(
            ", the oldest order has waited {}",
            humantime::format_duration(Duration::from_secs(age.as_secs()))
        ))
    );
    if queue.paused {
        Finding::warn(finding, "run `orderly resume` to start orders again")
    } else if alive == 0 && unfinished > 0 {
        Finding::warn(finding, "no node processes the orders: start `orderly serve`")
    } else if let Some(age) = queue.blocked.oldest_age.filter(|age| *age > WAIT_WARN) {
        let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
        let finding = format!(
            "{finding}, {} wait for another order of their user, for up to {age}",
            queue.blocked.orders
        );
        let advice = "GET /orders/{id}/explain of a waiting order names the one before it; if that is Failed, retry or \
            cancel it";
        Finding::warn(finding, advice)
    } else if waiting.is_some() {
        let advice = "raise ORDERLY_CONCURRENCY, or check the log for what delays the node";
        Finding::warn(finding, advice)
    } else {
        Finding::ok(finding)
    }
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
    use crate::store::{Blocked, Counters};

    fn idle() -> QueueState {
        QueueState {
            counters: Counters::default(),
            paused: false,
            oldest_waiting: None,
            blocked: Blocked::default(),
            nodes: Vec::new(),
        }
    }

    #[test]
    fn a_queue_that_does_not_move_is_reported_with_its_reason() {
        assert_eq!(judge_queue(&idle()).state, State::Ok);
        let mut deserted = idle();
        deserted.counters.pending = 1;
        assert!(judge_queue(&deserted).advice.unwrap().contains("orderly serve"));
        let mut paused = idle();
        paused.paused = true;
        assert!(judge_queue(&paused).advice.unwrap().contains("resume"));
        let mut blocked = idle();
        blocked.blocked.orders = 3;
        blocked.blocked.oldest_age = Some(WAIT_WARN * 2);
        let blocked = judge_queue(&blocked);
        assert!(
            blocked
                .text
                .ends_with("3 wait for another order of their user, for up to 10m"),
            "{}",
            blocked.text
        );
        assert!(blocked.advice.unwrap().contains("retry or cancel"));
        let mut late = idle();
        late.oldest_waiting = Some(WAIT_WARN * 2);
        let late = judge_queue(&late);
        assert!(late.text.ends_with("waited 10m"), "{}", late.text);
        assert!(late.advice.unwrap().contains("ORDERLY_CONCURRENCY"));
    }

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
