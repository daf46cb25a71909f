//! The judgement whether orders flow: turns the vitals of a store into findings that name the cause and what to do. The one
//! set of rules for `orderly doctor`, `/readyz?verbose`, the metric `orderly_finding` and its alarms.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Config, Database};
use crate::store::Vitals;
use crate::store::vitals::LongTransaction;

mod flow;
mod local;
mod monitor;
mod nodes;
mod orders;
mod sessions;
#[cfg(test)]
mod tests;

pub use flow::remedy_of_service;
pub use local::{Disk, Local, Looker};
pub use monitor::{Known, Monitor};

/// Wait of an order from which on a queue that starts nothing is suspicious.
pub const STANDSTILL: Duration = Duration::from_secs(10);
/// Wait of an order from which on the nodes are too slow for what comes.
pub const BEHIND: Duration = Duration::from_mins(1);
/// Time in processing from which on an order can be suspicious, however short orders usually take.
pub const SLOW_MIN: Duration = Duration::from_secs(30);
/// Multiple of the mean time in processing above which an order is suspicious.
pub const SLOW_FACTOR: u32 = 3;
/// Share of orders that fail for good, in percent, above which it is more than bad orders.
pub const FAILED_PERCENT: u64 = 5;
/// Fewest failed orders that can be too many.
pub const FAILED_MIN: u64 = 3;
/// Wait of a user's orders from which on the order before them is suspicious.
pub const BLOCKED_LONG: Duration = Duration::from_secs(30);
/// Difference between the clocks of a node and the store.
pub const CLOCK_OFF: Duration = Duration::from_secs(2);
/// Age from which on a transaction is a finding even if it blocks no session.
pub const OLD_TRANSACTION: Duration = Duration::from_mins(5);
/// Time for which nodes may run different versions: an upgrade takes a while.
pub const UPGRADE_MAX: Duration = Duration::from_mins(15);

/// A problem with its cause and its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub rule: Rule,
    pub severity: Severity,
    pub what: String,
    /// The cause, where the vitals show it.
    pub because: Option<String>,
    pub action: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Orders do not start or end as they should.
    Fail,
    /// Orders will soon not start or end as they should, or only some are affected.
    Warn,
}

macro_rules! rules {
    ($($(#[$documentation:meta])* $rule:ident = $name:literal;)*) => {
        /// A rule of suspicion. Its name is a label value of `orderly_finding` and an anchor in docs/OPERATIONS.md.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $($(#[$documentation])* $rule,)*
        }

        impl Rule {
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Rule::$rule => $name,)*
                }
            }
        }
    };
}

// The causes of a standstill come first, most certain first: a report names them in this order.
rules! {
    /// An operator paused the queue.
    Paused = "paused";
    /// Orders are open, and no node is alive.
    NoNode = "no-node";
    /// A node starts nothing, because its settings differ from the store's.
    NodeDiffers = "node-differs";
    /// The service that processes the orders is down for all or some nodes.
    ServiceDown = "service-down";
    /// A session of the database holds locks that others wait for.
    Locked = "locked";
    /// Orders wait for external workers, and none asks.
    NoWorker = "no-worker";
    /// Every slot is taken, and orders wait.
    SlotsFull = "slots-full";
    /// Orders wait, slots are free, and nothing starts.
    Standstill = "standstill";
    /// Orders come faster than they start.
    Behind = "behind";
    /// Many orders fail for good.
    ManyFailed = "many-failed";
    /// An order has been in processing for long.
    SlowOrder = "slow-order";
    /// A worker outside, or a service that answered 202, has not reported for long.
    NoReport = "no-report";
    /// The service breaks off without an answer at the same orders again and again.
    NoAnswer = "no-answer";
    /// Orders lose their leases again and again.
    LeasesLost = "leases-lost";
    /// Orders of a user wait for an order that does not end by itself.
    UserBlocked = "user-blocked";
    /// All client connections of a node are in use.
    ConnectionsFull = "connections-full";
    /// The disk of the orders is filling.
    DiskFilling = "disk-filling";
    /// A node fell silent.
    NodeSilent = "node-silent";
    /// A node's clock is off.
    ClockOff = "clock-off";
    /// Nodes run different versions.
    VersionsDiffer = "versions-differ";
    /// A transaction keeps the database from cleaning up.
    LongTransaction = "long-transaction";
    /// A replication slot without a client fills the database's disk.
    SlotWithoutClient = "slot-without-client";
    /// Redis cannot be used: the database hands out the work.
    RedisAway = "redis-away";
    /// A certificate of the service or of the database ends soon.
    CertificateEnds = "certificate-ends";
    /// The log cannot be written, or its disk is full.
    LogUnwritable = "log-unwritable";
}

/// Judges the vitals. Worst first, and among equals in the order of the rules. Empty on a healthy store, idle or busy.
pub fn diagnose(vitals: &Vitals, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    sessions::judge(vitals, &mut findings);
    flow::judge(vitals, settings, &mut findings);
    orders::judge(vitals, &mut findings);
    nodes::judge(vitals, &mut findings);
    sorted(findings)
}

/// Judges what one node sees of itself.
pub fn diagnose_local(local: &Local) -> Vec<Finding> {
    let mut findings = Vec::new();
    local::judge(local, &mut findings);
    sorted(findings)
}

fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| (finding.severity, finding.rule));
    findings
}

/// Judges other sessions of the database alone, where the rest cannot be read.
pub fn diagnose_sessions(transactions: &[LongTransaction]) -> Vec<Finding> {
    transactions.iter().filter_map(sessions::transaction).collect()
}

/// Settings of a node, as far as a judgement needs them.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `ORDERLY_RATE_LIMIT`, attempts per second and node.
    pub rate_limit: Option<f64>,
    /// `ORDERLY_LOG_DIR`.
    pub log_dir: Option<PathBuf>,
    /// The SQLite file; `None` with PostgreSQL.
    pub store_file: Option<PathBuf>,
    /// Client connections that the server takes; `None` outside a server.
    pub connections_max: Option<u64>,
}

impl Settings {
    pub fn of(config: &Config) -> Settings {
        Settings {
            rate_limit: config.rate_limit,
            log_dir: Some(config.log.dir.clone()),
            store_file: match &config.database {
                Database::Sqlite(path) => Some(path.clone()),
                Database::Postgres(_) => None,
            },
            connections_max: None,
        }
    }
}

fn finding(rule: Rule, severity: Severity, what: impl Into<String>, action: impl Into<String>) -> Finding {
    Finding {
        rule,
        severity,
        what: what.into(),
        because: None,
        action: action.into(),
    }
}

impl Finding {
    fn because(self, cause: impl Into<String>) -> Finding {
        Finding {
            because: Some(cause.into()),
            ..self
        }
    }
}

/// Writes a span in whole seconds, as `1m 14s`.
fn shown(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

/// Writes a number of things: `1 order`, `2 orders`.
pub fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
