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

/// What the function that claims does for this many orders, under the settings it has, and the look ahead that follows.
pub async fn of_claim(scene: &Scene, places: usize) -> (Plan, Plan) {
    let claim = "select prosrc, (select string_agg('set local ' || replace(setting, '=', ' = '), ';') from unnest(proconfig) as setting)
        from pg_proc where oid = 'orderly.claim'::regproc";
    let claim = scene.admin.query_one(claim, &[]).await.unwrap();
    let (text, settings): (String, String) = (claim.get(0), claim.get(1));
    let settings: Vec<&str> = settings.split(';').collect();
    assert!(settings.len() > 5, "{settings:?}");
    let values = [
        ("places", places.to_string()),
        ("claiming_node", "10".to_owned()),
        ("lease_micros", "1000000".to_owned()),
        ("takes_suspects", "1".to_owned()),
        ("is_outside", "0".to_owned()),
        ("is_handed_out", "0".to_owned()),
        ("known_processor", "-1".to_owned()),
        ("known_ordering", "0".to_owned()),
        ("second_first", "0".to_owned()),
        ("above", "0".to_owned()),
        ("spare", "4".to_owned()),
        ("counter_slot", "3".to_owned()),
        ("stepped_around", "'{}'::int8[]".to_owned()),
    ];
    let text = values
        .iter()
        .fold(text, |text, (name, value)| with_value(&text, name, value));
    let statements: Vec<String> = statements(&text)
        .iter()
        .map(|text| without_targets(text))
        .collect();
    let outlook = statements
        .iter()
        .find(|statement| statement.starts_with("select pg_current_xact_id_if_assigned"));
    (
        Plan::of(scene, &settings, main_statement(&statements)).await,
        Plan::of(scene, &settings, outlook.unwrap()).await,
    )
}

/// The text with a value where the whole word is this name.
fn with_value(text: &str, name: &str, value: &str) -> String {
    let is_of_word = |char: char| char.is_alphanumeric() || char == '_';
    let words = text.split_inclusive(|char| !is_of_word(char));
    let replaced = words.map(|word| match word.strip_prefix(name) {
        Some(rest) if !rest.starts_with(is_of_word) => format!("{value}{rest}"),
        _ => word.to_owned(),
    });
    replaced.collect()
}

/// Without the line that says into which variables the answer goes.
fn without_targets(statement: &str) -> String {
    let lines = statement
        .lines()
        .filter(|line| !line.trim_start().starts_with("into "));
    lines.collect::<Vec<_>>().join("\n")
}

/// The same where the orders of a user wait for each other: the statements of the message that was sent last.
pub async fn of_claim_in_turn(scene: &Scene) -> Plan {
    let statements = statements(&caught(scene, "first_line as materialized"));
    Plan::of(scene, &settings(&statements), main_statement(&statements)).await
}

/// What the claim that was sent last does before, to see whose turn it is.
pub async fn of_turns(scene: &Scene) -> Plan {
    let statements = statements(&caught(scene, "first_line as materialized"));
    let turns = statements
        .iter()
        .find(|statement| statement.starts_with("with unseen"));
    Plan::of(scene, &settings(&statements), turns.unwrap()).await
}

/// The same of the step of retention that was sent last.
pub async fn of_step(scene: &Scene) -> Plan {
    let statements = statements(&caught(scene, "events_gone"));
    let mut settings = settings(&statements);
    // The lock, and that it was taken.
    let taken = statements
        .iter()
        .find(|statement| statement.contains("set_config"));
    settings.push(taken.unwrap());
    Plan::of(scene, &settings, main_statement(&statements)).await
}

fn statements(message: &str) -> Vec<String> {
    let lines: Vec<&str> = message
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    let text = lines.join("\n");
    text.split(';')
        .map(|statement| statement.trim().to_owned())
        .collect()
}

fn settings(statements: &[String]) -> Vec<&str> {
    let statements = statements.iter().map(String::as_str);
    statements
        .filter(|statement| statement.starts_with("set local"))
        .collect()
}

fn main_statement(statements: &[String]) -> &str {
    let main = statements
        .iter()
        .find(|statement| statement.starts_with("with moment"));
    main.unwrap()
}

/// How a statement was carried out.
pub struct Plan(Value, bool);

impl Plan {
    /// Carries it out and takes it back.
    pub async fn of(scene: &Scene, settings: &[&str], statement: &str) -> Plan {
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
        Plan(plan[0]["Plan"].clone(), plan[0].get("JIT").is_some())
    }

    /// Pages of tables and indexes it touched.
    pub fn pages(&self) -> u64 {
        let pages = |name: &str| self.0[name].as_u64().expect("a number of pages");
        pages("Shared Hit Blocks") + pages("Shared Read Blocks")
    }

    /// The part of the plan with this name.
    pub fn part(&self, name: &str) -> Plan {
        let part = self.nodes().into_iter().find(|node| node["Subplan Name"] == name);
        let part = part.unwrap_or_else(|| panic!("no {name} in {self}"));
        Plan(part.clone(), self.1)
    }

    /// Indexes that were read, each once, by name.
    pub fn indexes(&self) -> Vec<&str> {
        let names = self.nodes().into_iter().map(|node| node["Index Name"].as_str());
        let mut names: Vec<&str> = names.flatten().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Tables that were read from their beginning, not by an index.
    pub fn walked(&self) -> Vec<&str> {
        let nodes = self.nodes().into_iter();
        let walks = nodes.filter(|node| node["Node Type"] == "Seq Scan");
        walks.filter_map(|node| node["Relation Name"].as_str()).collect()
    }

    /// It seemed to be so much work that compiling it would be worth it, which takes longer than any statement here.
    pub fn is_compiled(&self) -> bool {
        self.1
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
