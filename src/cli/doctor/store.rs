//! Checks the store: it can be read or created, is sound and durable, its orders move, and the clock agrees with it.

use std::time::Duration;

use super::{Check, advice, agreement, breaker, feed, room, standby};
use crate::causes::with_causes;
use crate::config::Database;
use crate::store::open::{self, OpenError};
use crate::store::snapshot::newest_time;
use crate::store::{QueueState, Snapshot, StoreError};
use crate::time::Timestamp;

/// Waiting time of a startable order above which slots are too few or a node is stuck.
const WAIT_WARN: Duration = Duration::from_mins(5);
/// Maximum lead of a stored time over the clock: two readings of one clock, or of two synchronized clocks.
const CLOCK_AHEAD_WARN: Duration = Duration::from_secs(2);
const NO_MIGRATION: &str = "run `orderly migrate`: with ORDERLY_MIGRATE=off a start does not migrate";

/// Checks the store. `migrates` is true if a start creates or changes the schema.
pub async fn check(database: &Database, migrates: bool) -> Vec<Check> {
    let mut snapshot = match open::open_snapshot(database).await {
        Ok(snapshot) => snapshot,
        // A file may exist without a schema in it.
        Err(OpenError::Missing { .. } | OpenError::SchemaOlder { found: 0, .. }) => {
            return vec![missing(database, migrates).await];
        }
        Err(error) => return vec![unopened(database, &error, migrates)],
    };
    let mut checks = Vec::new();
    if let Err(error) = check_snapshot(database, &mut *snapshot, &mut checks).await {
        let finding = with_causes(&error);
        let advice = advice::of(database, &finding);
        checks.push(Check::fail("store", finding, advice));
    }
    checks
}

/// Rehearses the first start.
async fn missing(database: &Database, migrates: bool) -> Check {
    let finding = format!("no store at {}", open::location(database));
    if !migrates {
        return Check::fail("store", finding, NO_MIGRATION);
    }
    match open::rehearse(database).await {
        Ok(()) => Check::warn(
            "store",
            finding,
            "the first start creates it: run `orderly serve`",
        ),
        Err(error) => {
            let reason = with_causes(&error);
            let advice = advice::of(database, &reason);
            Check::fail(
                "store",
                format!("{finding}, and none can be created: {reason}"),
                advice,
            )
        }
    }
}

fn unopened(database: &Database, error: &OpenError, migrates: bool) -> Check {
    let finding = with_causes(error);
    match error {
        OpenError::Missing { .. } => Check::warn(
            "store",
            finding,
            "the first start creates it: run `orderly serve`",
        ),
        OpenError::SchemaOlder { .. } | OpenError::FunctionsMissing { .. } if !migrates => {
            Check::fail("store", finding, NO_MIGRATION)
        }
        OpenError::SchemaOlder { .. } | OpenError::FunctionsMissing { .. } => Check::warn(
            "store",
            finding,
            "run `orderly migrate`, or let `orderly serve` do it",
        ),
        OpenError::SchemaNewer { .. } => {
            Check::fail("store", finding, "use the newest version that ran on this store")
        }
        OpenError::SchemaDiffers { .. } => Check::fail(
            "store",
            finding,
            "see Upgrading in docs/OPERATIONS.md for changing from one build to another",
        ),
        OpenError::NotDurable { .. } => Check::fail("store", finding, "change that setting of the database"),
        OpenError::Unsuitable { .. } => Check::fail("store", finding, "change it, or use another database"),
        OpenError::InUse { .. } => Check::fail("store", finding, "stop the other process first"),
        OpenError::Unavailable { .. } => {
            let advice = advice::of(database, &finding);
            Check::fail("store", finding, advice)
        }
    }
}

async fn check_snapshot(
    database: &Database,
    snapshot: &mut dyn Snapshot,
    checks: &mut Vec<Check>,
) -> Result<(), StoreError> {
    checks.push(contents(database, snapshot).await?);
    if let Some(reason) = snapshot.only_reads().await? {
        let advice = match database {
            Database::Sqlite(_) => {
                "orders can be read but none stored: check the permissions of the file and its folder, and how it is mounted"
            }
            Database::Postgres(_) => {
                "orders can be read but none stored: point DATABASE_URL at the server that takes writes (behind HAProxy, \
                 the port whose check is /primary), or check default_transaction_read_only"
            }
        };
        checks.push(Check::fail("writes", reason, advice));
    }
    checks.push(judge_durability(&snapshot.weaknesses().await?));
    checks.extend(snapshot.standbys().await?.map(standby::judge));
    let queue = snapshot.queue().await?;
    checks.push(judge_queue(&queue));
    checks.extend(agreement::judge(&queue));
    checks.push(breaker::judge(&queue));
    if let Some(room) = snapshot.room().await? {
        checks.push(room::judge(&room, &queue));
    }
    checks.push(feed::judge(&snapshot.feed().await?, &queue));
    let newest = newest_time(snapshot).await?;
    checks.push(judge_clock(database, now(), newest));
    Ok(())
}

async fn contents(database: &Database, snapshot: &mut dyn Snapshot) -> Result<Check, StoreError> {
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
        return Ok(Check::fail("store", finding, advice));
    }
    let counters = snapshot.counters().await?;
    let finding = format!(
        "{location} is sound: {} orders, {} pending, {} processing, {} failed",
        counters.total(),
        counters.pending,
        counters.processing,
        counters.failed
    );
    Ok(Check::ok("store", finding))
}

fn judge_durability(weaknesses: &[String]) -> Check {
    const NAME: &str = "durability";
    if weaknesses.is_empty() {
        return Check::ok(NAME, "confirmed orders are durable");
    }
    Check::fail(
        NAME,
        weaknesses.join("; "),
        "until you change it, an order answered with 201 can be lost: the setting may come from the server, the \
         database, the role, the URL's `options`, the pooler, or Patroni (`patronictl edit-config`)",
    )
}

fn judge_queue(queue: &QueueState) -> Check {
    const NAME: &str = "queue";
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
        Check::warn(NAME, finding, "run `orderly resume` to start orders again")
    } else if alive == 0 && unfinished > 0 {
        Check::warn(
            NAME,
            finding,
            "no node processes the orders: start `orderly serve`",
        )
    } else if let Some(age) = queue.blocked.oldest_age.filter(|age| *age > WAIT_WARN) {
        let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
        let finding = format!(
            "{finding}, {} wait for another order of their user, for up to {age}",
            queue.blocked.orders
        );
        let advice = "GET /orders/{id}/explain of a waiting order names the one before it; if that is Failed, retry or \
            cancel it";
        Check::warn(NAME, finding, advice)
    } else if waiting.is_some() {
        let advice = "raise ORDERLY_CONCURRENCY, or check the log for what delays the node";
        Check::warn(NAME, finding, advice)
    } else {
        Check::ok(NAME, finding)
    }
}

fn judge_clock(database: &Database, now: Timestamp, newest: Option<Timestamp>) -> Check {
    const NAME: &str = "clock";
    let ahead = newest.map_or(Duration::ZERO, |newest| newest.since(now));
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
        Check::warn(
            NAME,
            format!("the newest time in the store is {ahead} ahead of this clock"),
            advice,
        )
    } else {
        Check::ok(NAME, "not behind the store")
    }
}

fn now() -> Timestamp {
    crate::store::clock::system_clock()()
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
                .finding
                .ends_with("3 wait for another order of their user, for up to 10m"),
            "{}",
            blocked.finding
        );
        assert!(blocked.advice.unwrap().contains("retry or cancel"));
        let mut late = idle();
        late.oldest_waiting = Some(WAIT_WARN * 2);
        let late = judge_queue(&late);
        assert!(late.finding.ends_with("waited 10m"), "{}", late.finding);
        assert!(late.advice.unwrap().contains("ORDERLY_CONCURRENCY"));
    }

    #[test]
    fn a_clock_behind_the_store_is_a_warning() {
        let now = Timestamp::from_micros(1_000_000);
        let later = |seconds| Some(now.plus(Duration::from_secs(seconds)));
        let state = |newest| judge_clock(&Database::Sqlite("orderly.db".into()), now, newest).state;
        assert_eq!(state(None), State::Ok);
        assert_eq!(state(later(0)), State::Ok);
        assert_eq!(state(later(3600)), State::Warn);
    }

    #[test]
    fn a_weak_setting_fails_and_is_named() {
        assert_eq!(judge_durability(&[]).state, State::Ok);
        let weak = judge_durability(&["fsync is off".to_owned(), "synchronous_commit is off".to_owned()]);
        assert_eq!(weak.state, State::Fail);
        assert_eq!(weak.finding, "fsync is off; synchronous_commit is off");
    }
}
