//! `render.yaml` against Render's blueprint specification (<https://render.com/docs/blueprint-spec>) and this program.
//! Only Render's own validation can confirm that Render accepts it; `docs/OPERATIONS.md` names it.

use std::collections::BTreeMap;
use std::time::Duration;

use orderly::config::settings::variables;
use orderly::config::{Sources, load};

/// Fields allowed for a web service on a native runtime.
const SERVICE_FIELDS: [&str; 9] = [
    "type",
    "name",
    "runtime",
    "plan",
    "buildCommand",
    "startCommand",
    "healthCheckPath",
    "maxShutdownDelaySeconds",
    "envVars",
];
/// Render's maximum.
const SHUTDOWN_DELAY_MAX: Duration = Duration::from_mins(5);
/// Read by the toolchain, not by this program.
const TOOLCHAIN: &str = "RUSTUP_TOOLCHAIN";

/// The only service, in the plain form of this file: two spaces per level, no multi-line text.
struct Blueprint {
    fields: BTreeMap<String, String>,
    /// Each variable with the one field that gives its value.
    variables: BTreeMap<String, (String, String)>,
}

fn blueprint() -> Blueprint {
    let text = std::fs::read_to_string("render.yaml").expect("the blueprint is in the root");
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    assert_eq!(lines.next(), Some("services:"));
    let mut fields = BTreeMap::new();
    let mut variables = BTreeMap::new();
    let mut variable = None;
    for line in lines {
        let indent = line.len() - line.trim_start().len();
        let (name, value) = line.trim().split_once(':').expect("a line has a field");
        let value = value.trim().trim_matches('"').to_owned();
        match (indent, name) {
            (2, "- type") => drop(fields.insert("type".to_owned(), value)),
            (4, name) => drop(fields.insert(name.to_owned(), value)),
            (6, "- key") => variable = Some(value),
            (8, name) => {
                let key = variable.take().expect("a variable has one value");
                let known = variables.insert(key, (name.to_owned(), value));
                assert_eq!(known, None, "a variable is set once");
            }
            _ => panic!("a line of an unknown kind: {line}"),
        }
    }
    assert_eq!(variable, None, "every variable has a value");
    Blueprint { fields, variables }
}

#[test]
fn the_blueprint_runs_this_program_as_a_web_service() {
    let Blueprint { fields, variables } = blueprint();
    for name in fields.keys() {
        assert!(SERVICE_FIELDS.contains(&name.as_str()), "{name}");
    }
    let field = |name: &str| fields[name].as_str();
    assert_eq!((field("type"), field("runtime")), ("web", "rust"));
    assert_eq!(field("buildCommand"), "cargo build --release --locked");
    assert_eq!(field("startCommand"), "./target/release/orderly serve");
    assert_ne!(
        field("plan"),
        "free",
        "the free plan sleeps and ignores the delay"
    );
    let manifest = std::fs::read_to_string("Cargo.toml").expect("the manifest is in the root");
    let toolchain = &variables[TOOLCHAIN].1;
    assert!(
        manifest.contains(&format!("rust-version = \"{toolchain}\"")),
        "{toolchain}"
    );
}

#[test]
fn the_blueprint_leaves_time_for_a_graceful_stop() {
    let delay = blueprint().fields["maxShutdownDelaySeconds"].parse();
    let delay = Duration::from_secs(delay.expect("a delay is a number of seconds"));
    let defaults = load(&Sources::default()).expect("the defaults are right");
    assert!(defaults.config.shutdown_grace < delay && delay <= SHUTDOWN_DELAY_MAX);
}

#[test]
fn the_blueprint_sets_only_known_settings_and_holds_no_secret() {
    let known: Vec<String> = variables().chain([TOOLCHAIN.to_owned()]).collect();
    let set = blueprint().variables;
    for (name, (kind, value)) in &set {
        assert!(known.contains(name), "{name}");
        match (name.as_str(), kind.as_str()) {
            ("ORDERLY_API_KEY", "generateValue") => assert_eq!(value, "true"),
            ("DATABASE_URL", "sync") => assert_eq!(value, "false"),
            ("ORDERLY_API_KEY" | "DATABASE_URL", _) => panic!("{name} must not have a value in the file"),
            (_, kind) => assert_eq!(kind, "value", "{name}"),
        }
    }
    assert_eq!(set["HOST"].1, "0.0.0.0");
    assert!(!set.contains_key("PORT"), "Render sets it");
    assert!(set.contains_key("DATABASE_URL") && set.contains_key("ORDERLY_API_KEY"));
}

#[test]
fn the_health_check_of_the_blueprint_needs_no_key() {
    let document = orderly::http::document();
    let document = serde_json::to_value(document).expect("the document is JSON");
    let path = &blueprint().fields["healthCheckPath"];
    let security = &document["paths"][path]["get"]["security"];
    assert_eq!(security, &serde_json::json!([{}]), "{path}");
}
