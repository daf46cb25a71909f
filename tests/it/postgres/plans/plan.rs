//! Captures statements as the store sends them, and the plans by which PostgreSQL executes them and the statements inside the
//! functions that they call.

use std::future::poll_fn;
use std::sync::Mutex;

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::super::setup::{Setup, number};

/// A session that reports the plans of the statements it executes.
pub struct Session {
    pub client: Client,
    plans: Mutex<UnboundedReceiver<Value>>,
}

const REPORT_PLANS: &str = "
load 'auto_explain';
set auto_explain.log_nested_statements = on;
set auto_explain.log_analyze = on;
set auto_explain.log_timing = off;
set auto_explain.log_format = json;
set auto_explain.log_level = notice;";

/// Query for the pages of the store's tables and indexes that the current transaction has touched.
const PAGES: &str = "select coalesce(sum(pg_stat_get_xact_blocks_fetched(oid)), 0)::int8 from pg_class
    where relnamespace in ('orderly'::regnamespace, 'pg_toast'::regnamespace)";

impl Session {
    pub async fn open(url: &str) -> Session {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let (sender, plans) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notice(notice) = message
                    && let Some((_, plan)) = notice.message().split_once("plan:\n")
                {
                    let plan: Value = serde_json::from_str(plan).expect("JSON, as asked for");
                    // Fails only after the end of the test.
                    let _ = sender.send(plan);
                }
            }
        });
        client.batch_execute(REPORT_PLANS).await.unwrap();
        Session {
            client,
            plans: Mutex::new(plans),
        }
    }

    /// Executes the statements, rolls them back, and returns their plans.
    pub async fn plan(&self, statements: &str) -> Plan {
        let run = async |statement: &str| {
            let answer = self.client.batch_execute(statement).await;
            answer.unwrap_or_else(|error| panic!("{error:?} in {statement}"));
        };
        run("begin").await;
        let before = number(&self.client, PAGES).await;
        run("set local auto_explain.log_min_duration = 0").await;
        run(statements).await;
        run("set local auto_explain.log_min_duration = -1").await;
        let pages = number(&self.client, PAGES).await - before;
        run("rollback").await;
        let mut plans = self.plans.lock().unwrap();
        let statements = std::iter::from_fn(|| plans.try_recv().ok()).collect();
        Plan {
            statements,
            pages: u64::try_from(pages).unwrap(),
        }
    }
}

/// A captured statement of the store, with the types and values of its parameters.
pub struct CapturedStatement {
    pub what: String,
    statement: String,
    types: String,
    values: String,
}

impl CapturedStatement {
    /// Captures the last statement that contains this part.
    pub fn of(setup: &Setup, what: &str, part: &str, types: &str, values: &str) -> CapturedStatement {
        CapturedStatement {
            what: what.to_owned(),
            statement: last_message_with(setup, part),
            types: types.to_owned(),
            values: values.to_owned(),
        }
    }

    pub async fn plan(&self, session: &Session) -> Plan {
        let in_brackets = |list: &String| match list.as_str() {
            "" => String::new(),
            list => format!("({list})"),
        };
        let (types, values) = (in_brackets(&self.types), in_brackets(&self.values));
        let prepare = format!("prepare asked {types} as {}", self.statement);
        let prepared = session.client.batch_execute(&prepare).await;
        prepared.unwrap_or_else(|error| panic!("{error:?} in {prepare}"));
        let plan = session.plan(&format!("execute asked {values}")).await;
        session.client.batch_execute("deallocate asked").await.unwrap();
        plan
    }
}

pub fn last_message_with(setup: &Setup, part: &str) -> String {
    let flights = setup.proxy.flights();
    let last = flights.iter().rev().find(|sql| sql.contains(part));
    last.unwrap_or_else(|| panic!("nothing with {part:?} was sent"))
        .clone()
}

/// Executes the last message that contains this part and was a transaction of its own; returns its plan.
pub async fn of_message(setup: &Setup, session: &Session, part: &str) -> Plan {
    of_transaction(session, &last_message_with(setup, part)).await
}

/// Executes a message that is a transaction of its own, and returns its plan.
pub async fn of_transaction(session: &Session, message: &str) -> Plan {
    let lines: Vec<&str> = message
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    let text = lines.join("\n");
    let statements: Vec<&str> = text
        .split(';')
        .map(str::trim)
        .filter(|statement| !statement.starts_with("begin") && !matches!(*statement, "commit" | "rollback"))
        .collect();
    session.plan(&statements.join(";")).await
}

/// The plans by which statements were executed.
pub struct Plan {
    statements: Vec<Value>,
    pages: u64,
}

/// Rows up to which a sequential scan of a table is acceptable.
const SMALL_TABLE_ROWS: f64 = 200.0;

impl Plan {
    /// Pages of tables and indexes touched by all statements.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Plans of the statements whose text contains this part.
    pub fn statement(&self, part: &str) -> Plan {
        let has_it = |statement: &&Value| {
            let text = statement["Query Text"].as_str();
            text.is_some_and(|text| text.contains(part))
        };
        let statements: Vec<Value> = self.statements.iter().filter(has_it).cloned().collect();
        assert!(!statements.is_empty(), "no {part} in {self}");
        Plan {
            statements,
            pages: self.pages,
        }
    }

    /// The subplan with this name.
    pub fn part(&self, name: &str) -> Plan {
        let part = self.nodes().into_iter().find(|node| node["Subplan Name"] == name);
        let part = part.unwrap_or_else(|| panic!("no {name} in {self}"));
        Plan {
            statements: vec![serde_json::json!({ "Plan": part })],
            pages: self.pages,
        }
    }

    /// Names of the indexes that were read, each once, sorted.
    pub fn indexes(&self) -> Vec<&str> {
        let nodes = self.nodes().into_iter();
        let read = nodes.filter(|node| times(node, "Actual Loops") > 0.0);
        let mut names: Vec<&str> = read.filter_map(|node| node["Index Name"].as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Tables that were read by a sequential scan, except small ones.
    pub fn sequential_scans(&self) -> Vec<&str> {
        let nodes = self.nodes().into_iter();
        let walks =
            nodes.filter(|node| node["Node Type"] == "Seq Scan" && rows_of_a_loop(node) > SMALL_TABLE_ROWS);
        walks.filter_map(|node| node["Relation Name"].as_str()).collect()
    }

    /// The largest number of rows that one node of the plan read.
    pub fn rows(&self) -> u64 {
        self.nodes().into_iter().map(rows).max().unwrap_or(0)
    }

    /// Reports whether JIT compiled the plan, which takes longer than any statement here.
    pub fn is_compiled(&self) -> bool {
        self.statements
            .iter()
            .any(|statement| statement.get("JIT").is_some())
    }

    pub fn sorts(&self) -> bool {
        self.nodes().iter().any(|node| {
            let kind = node["Node Type"].as_str();
            kind.is_some_and(|kind| kind.contains("Sort"))
        })
    }

    fn nodes(&self) -> Vec<&Value> {
        let mut nodes: Vec<&Value> = self
            .statements
            .iter()
            .map(|statement| &statement["Plan"])
            .collect();
        let mut next = 0;
        while let Some(node) = nodes.get(next) {
            next += 1;
            nodes.extend(node["Plans"].as_array().into_iter().flatten());
        }
        nodes
    }
}

/// Rows that a node of a plan read, including those it filtered out.
fn rows(node: &Value) -> u64 {
    let rows = format!("{:.0}", rows_of_a_loop(node) * times(node, "Actual Loops"));
    rows.parse().expect("a whole number")
}

fn rows_of_a_loop(node: &Value) -> f64 {
    let of_one = [
        "Actual Rows",
        "Rows Removed by Filter",
        "Rows Removed by Join Filter",
        "Rows Removed by Index Recheck",
    ];
    of_one.into_iter().map(|name| times(node, name)).sum()
}

fn times(node: &Value, name: &str) -> f64 {
    node[name].as_f64().unwrap_or(0.0)
}

impl std::fmt::Display for Plan {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for statement in &self.statements {
            write!(formatter, "{statement:#}")?;
        }
        Ok(())
    }
}
