//! Statements as the store sends them, caught on their way, and how PostgreSQL carries them out: each of them, and each that
//! the functions they call consist of, by the plan that the session has for it.

use std::future::poll_fn;
use std::sync::Mutex;

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::super::scene::{Scene, number};

/// A session that tells how it carries out what is sent over it.
pub struct Session {
    pub client: Client,
    told: Mutex<UnboundedReceiver<Value>>,
}

const TELLS: &str = "
load 'auto_explain';
set auto_explain.log_nested_statements = on;
set auto_explain.log_analyze = on;
set auto_explain.log_timing = off;
set auto_explain.log_format = json;
set auto_explain.log_level = notice;";

/// Pages of the store's tables and indexes that the session's transaction has touched.
const PAGES: &str = "select coalesce(sum(pg_stat_get_xact_blocks_fetched(oid)), 0)::int8 from pg_class
    where relnamespace in ('orderly'::regnamespace, 'pg_toast'::regnamespace)";

impl Session {
    pub async fn open(url: &str) -> Session {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let (tell, told) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notice(notice) = message
                    && let Some((_, plan)) = notice.message().split_once("plan:\n")
                {
                    let plan: Value = serde_json::from_str(plan).expect("JSON, as asked for");
                    // A test that has ended listens no more.
                    let _ = tell.send(plan);
                }
            }
        });
        client.batch_execute(TELLS).await.unwrap();
        Session {
            client,
            told: Mutex::new(told),
        }
    }

    /// Carries statements out and takes back what they did.
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
        let mut told = self.told.lock().unwrap();
        let statements = std::iter::from_fn(|| told.try_recv().ok()).collect();
        Plan {
            statements,
            pages: u64::try_from(pages).unwrap(),
        }
    }
}

/// A statement of the store, with what it is to be carried out with.
pub struct Caught {
    pub what: String,
    statement: String,
    types: String,
    values: String,
}

impl Caught {
    /// The last that was sent with this part in it.
    pub fn of(scene: &Scene, what: &str, part: &str, types: &str, values: &str) -> Caught {
        Caught {
            what: what.to_owned(),
            statement: caught(scene, part),
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

pub fn caught(scene: &Scene, part: &str) -> String {
    let flights = scene.proxy.flights();
    let last = flights.iter().rev().find(|sql| sql.contains(part));
    last.unwrap_or_else(|| panic!("nothing with {part:?} was sent"))
        .clone()
}

/// Reads the plan of the last message that was a transaction of its own and had this part in it.
pub async fn of_message(scene: &Scene, session: &Session, part: &str) -> Plan {
    of_transaction(session, &caught(scene, part)).await
}

/// Reads the plan of such a message.
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

/// The plans by which statements were carried out.
pub struct Plan {
    statements: Vec<Value>,
    pages: u64,
}

/// Rows of a table that is read from its beginning, because it is believed to be small, and that is.
const SMALL_TABLE_ROWS: f64 = 200.0;

impl Plan {
    /// Pages of tables and indexes touched by all of it.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Those of the statements that have this part in their text.
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

    /// The part of a plan with this name.
    pub fn part(&self, name: &str) -> Plan {
        let part = self.nodes().into_iter().find(|node| node["Subplan Name"] == name);
        let part = part.unwrap_or_else(|| panic!("no {name} in {self}"));
        Plan {
            statements: vec![serde_json::json!({ "Plan": part })],
            pages: self.pages,
        }
    }

    /// Indexes that were read, each once, by name.
    pub fn indexes(&self) -> Vec<&str> {
        let nodes = self.nodes().into_iter();
        let read = nodes.filter(|node| times(node, "Actual Loops") > 0.0);
        let mut names: Vec<&str> = read.filter_map(|node| node["Index Name"].as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Tables that were read from their beginning, not by an index, but for small ones.
    pub fn walked(&self) -> Vec<&str> {
        let nodes = self.nodes().into_iter();
        let walks =
            nodes.filter(|node| node["Node Type"] == "Seq Scan" && rows_of_a_loop(node) > SMALL_TABLE_ROWS);
        walks.filter_map(|node| node["Relation Name"].as_str()).collect()
    }

    /// The most rows that one part of it looked at.
    pub fn rows(&self) -> u64 {
        self.nodes().into_iter().map(rows).max().unwrap_or(0)
    }

    /// It seemed to be so much work that compiling it would be worth it, which takes longer than any statement here.
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

/// The rows that a part of a plan looked at, taken or not.
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
