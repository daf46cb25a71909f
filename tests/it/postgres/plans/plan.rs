//! Statements as the store sends them, caught on their way, and how PostgreSQL carries them out.

use serde_json::Value;
use tokio_postgres::SimpleQueryMessage;

use super::super::scene::Scene;

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

    pub async fn plan(&self, scene: &Scene) -> Plan {
        let in_brackets = |list: &String| match list.as_str() {
            "" => String::new(),
            list => format!("({list})"),
        };
        let (types, values) = (in_brackets(&self.types), in_brackets(&self.values));
        let prepare = format!("prepare asked {types} as {}", self.statement);
        scene.admin.batch_execute(&prepare).await.unwrap();
        let plan = Plan::of(scene, &[], &format!("execute asked {values}")).await;
        scene.admin.batch_execute("deallocate asked").await.unwrap();
        plan
    }
}

fn caught(scene: &Scene, part: &str) -> String {
    let flights = scene.proxy.flights();
    let last = flights.iter().rev().find(|sql| sql.contains(part));
    last.unwrap_or_else(|| panic!("nothing with {part:?} was sent"))
        .clone()
}

/// The claim that was sent last, under the settings that its message makes, and the look ahead that follows it.
pub async fn of_claim(scene: &Scene) -> (Plan, Plan) {
    let message = caught(scene, "first_line");
    let lines: Vec<&str> = message
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    let text = lines.join("\n");
    let statements: Vec<&str> = text.split(';').map(str::trim).collect();
    let is_setting = |statement: &&&str| statement.starts_with("set local");
    let settings: Vec<&str> = statements.iter().filter(is_setting).copied().collect();
    assert!(settings.len() > 5, "{settings:?}");
    let claim = statements
        .iter()
        .find(|statement| statement.starts_with("with moment"));
    let outlook = statements
        .iter()
        .find(|statement| statement.starts_with("select pg_current_xact_id_if_assigned"));
    (
        Plan::of(scene, &settings, claim.unwrap()).await,
        Plan::of(scene, &[], outlook.unwrap()).await,
    )
}

/// How a statement was carried out.
pub struct Plan(Value);

impl Plan {
    /// Carries it out and takes it back.
    async fn of(scene: &Scene, settings: &[&str], statement: &str) -> Plan {
        let run = async |statement: &str| {
            let answer = scene.admin.simple_query(statement).await;
            answer.unwrap_or_else(|error| panic!("{error:?} in {statement}"))
        };
        run("begin").await;
        for setting in settings {
            run(setting).await;
        }
        let explained = run(&format!(
            "explain (analyze, buffers, timing off, format json) {statement}"
        ))
        .await;
        run("rollback").await;
        let text = explained.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let plan: Value = serde_json::from_str(text.expect("a plan")).expect("JSON, as asked for");
        Plan(plan[0]["Plan"].clone())
    }

    /// Pages of tables and indexes it touched.
    pub fn pages(&self) -> u64 {
        let pages = |name: &str| self.0[name].as_u64().expect("a number of pages");
        pages("Shared Hit Blocks") + pages("Shared Read Blocks")
    }

    /// The part of the plan with this name.
    pub fn part(&self, name: &str) -> Plan {
        let part = self.nodes().into_iter().find(|node| node["Subplan Name"] == name);
        Plan(part.unwrap_or_else(|| panic!("no {name} in {self}")).clone())
    }

    /// Indexes that were read, each once, by name.
    pub fn indexes(&self) -> Vec<&str> {
        let names = self.nodes().into_iter().map(|node| node["Index Name"].as_str());
        let mut names: Vec<&str> = names.flatten().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    pub fn sorts(&self) -> bool {
        self.nodes().iter().any(|node| {
            let kind = node["Node Type"].as_str();
            kind.is_some_and(|kind| kind.contains("Sort"))
        })
    }

    fn nodes(&self) -> Vec<&Value> {
        let mut nodes = vec![&self.0];
        let mut next = 0;
        while let Some(node) = nodes.get(next) {
            next += 1;
            nodes.extend(node["Plans"].as_array().into_iter().flatten());
        }
        nodes
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:#}", self.0)
    }
}
