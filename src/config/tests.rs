//! Sources of settings and their precedence.

use super::*;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;

mod names;
mod ordering;
mod processor;
mod read_url;
mod retention;

/// Sources in a temporary folder with an empty environment.
struct Given {
    folder: tempfile::TempDir,
    sources: Sources,
}

fn given() -> Given {
    let folder = tempfile::tempdir().unwrap();
    let sources = Sources {
        folder: folder.path().to_owned(),
        ..Sources::default()
    };
    Given { folder, sources }
}

impl Given {
    fn variable(mut self, name: &str, value: &str) -> Given {
        self.sources
            .environment
            .insert(name.to_owned(), OsString::from(value));
        self
    }

    fn flag(mut self, key: &'static str, value: &str) -> Given {
        self.sources.flags.push((key, value.to_owned()));
        self
    }

    fn file(self, name: &str, text: &str) -> Given {
        fs::write(self.folder.path().join(name), text).unwrap();
        self
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        load(&self.sources)
    }

    fn config(&self) -> Config {
        self.load().unwrap().config
    }

    /// Returns the only problem.
    fn problem(&self) -> String {
        let mut problems = self.load().unwrap_err().problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let loaded = given().load().unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let config = loaded.config;
    assert_eq!(config.listen, ["127.0.0.1:5000".parse().unwrap()]);
    assert_eq!(config.database, Database::Sqlite("data/orderly.db".into()));
    assert!(config.migrate);
    assert_eq!(config.concurrency, 100);
    assert_eq!(config.connections_max, 4096);
    assert_eq!(config.retry.attempts_max, 5);
    assert_eq!(config.retry.base, Duration::from_secs(1));
    assert_eq!(config.retry.cap, Duration::from_mins(5));
    assert_eq!(config.crashes_max, 5);
    assert_eq!(config.lease, Duration::from_secs(30));
    assert_eq!(config.attempt_timeout, Duration::from_mins(5));
    assert_eq!(
        config.processor,
        ProcessorChoice::Simulated {
            speed: 1.0,
            failure_rate: 0.0
        }
    );
    assert_eq!(config.shutdown_grace, Duration::from_secs(25));
    assert_eq!(config.pending_max, None);
    assert_eq!(config.retention, None);
    assert_eq!(config.api_key, None);
    assert_eq!(config.log.filter, "info");
    assert_eq!(config.log.format, LogFormat::Auto);
    assert_eq!(config.log.dir, PathBuf::from("logs"));
}

#[test]
fn a_flag_beats_the_environment_beats_dot_env_beats_the_file() {
    let layered = given().file(
        "orderly.toml",
        "port = 1\nconcurrency = 11\nmax_attempts = 21\nlease = '31s'",
    );
    let layered = layered.file(".env", "PORT=2\nORDERLY_CONCURRENCY=12\nORDERLY_MAX_ATTEMPTS=22");
    let layered = layered
        .variable("PORT", "3")
        .variable("ORDERLY_CONCURRENCY", "13");
    let config = layered.flag("port", "4").config();
    assert_eq!(config.listen[0].port(), 4);
    assert_eq!(config.concurrency, 13);
    assert_eq!(config.retry.attempts_max, 22);
    assert_eq!(config.lease, Duration::from_secs(31));
}

#[test]
fn an_empty_variable_is_not_set() {
    let given = given()
        .file("orderly.toml", "port = 1")
        .variable("PORT", "")
        .variable("ORDERLY_API_KEY", "");
    assert_eq!(given.config().listen[0].port(), 1);
    assert_eq!(given.config().api_key, None);
}

#[test]
fn all_problems_are_reported_at_once_with_name_and_origin() {
    let wrong = given()
        .variable("ORDERLY_LEASE", "30")
        .flag("port", "70000")
        .file("orderly.toml", "concurrency = 0");
    let error = wrong.load().unwrap_err().to_string();
    assert!(
        error.contains("ORDERLY_LEASE (from the environment): `30` has no unit"),
        "{error}"
    );
    assert!(
        error.contains("--port: `70000` is not a number from 0 to 65535"),
        "{error}"
    );
    assert!(error.contains("concurrency (from "), "{error}");
    assert!(error.contains("orderly.toml)"), "{error}");
}

#[test]
fn an_unknown_key_in_the_file_is_an_error_with_a_suggestion() {
    for (key, meant) in [
        ("prot", "port"),
        ("ORDERLY_LEASE", "lease"),
        ("log-dir", "log_dir"),
    ] {
        let problem = given().file("orderly.toml", &format!("{key} = 1")).problem();
        assert!(problem.contains(&format!("unknown key `{key}`")), "{problem}");
        assert!(
            problem.ends_with(&format!("did you mean `{meant}`?")),
            "{problem}"
        );
    }
}

#[test]
fn an_unknown_variable_only_warns() {
    let loaded = given()
        .variable("ORDERLY_LAESE", "1s")
        .variable("OTHER", "x")
        .load()
        .unwrap();
    assert_eq!(
        loaded.warnings,
        ["ORDERLY_LAESE (from the environment) is not a setting, did you mean ORDERLY_LEASE?"]
    );
}

#[test]
fn a_named_file_must_exist() {
    let mut missing = given();
    missing.sources.config_file = Some(missing.folder.path().join("other.toml"));
    assert!(missing.problem().contains("other.toml"));
    let named = missing
        .file("other.toml", "port = 7")
        .file("orderly.toml", "port = 8");
    assert_eq!(named.config().listen[0].port(), 7);
}

#[test]
fn a_secret_can_come_from_a_file() {
    let with_file = given().file("key", "correct-horse-battery\n");
    let path = with_file.path("key");
    let with_file = with_file.variable("ORDERLY_API_KEY_FILE", &path);
    assert_eq!(
        with_file.config().api_key,
        Some(Secret::new("correct-horse-battery".to_owned()))
    );
    let with_both = with_file.variable("ORDERLY_API_KEY", "another-one");
    assert!(with_both.problem().contains("are both set"));
}

#[test]
fn an_empty_secret_file_is_an_error_and_does_not_open_the_server() {
    for text in ["", "\n", " \t\r\n\n"] {
        let given = given().file("secret", text);
        let path = given.path("secret");
        for name in ["ORDERLY_API_KEY_FILE", "DATABASE_URL_FILE", "REDIS_URL_FILE"] {
            let variables = BTreeMap::from([(name.to_owned(), OsString::from(&path))]);
            let sources = Sources {
                environment: variables,
                ..given.sources.clone()
            };
            let error = load(&sources).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("{name} (from the environment): {path} is empty or blank")
            );
        }
    }
}

#[test]
fn a_dollar_in_dot_env_is_a_dollar() {
    let given = given().file(".env", "ORDERLY_API_KEY=pa$HOMEword${PATH}-and-more\n");
    assert_eq!(
        given.config().api_key,
        Some(Secret::new("pa$HOMEword${PATH}-and-more".to_owned()))
    );
}

#[test]
fn a_short_key_causes_a_warning_on_every_address() {
    for host in ["127.0.0.1", "0.0.0.0"] {
        let given = given().variable("HOST", host);
        let short = given.variable("ORDERLY_API_KEY", "0123456789abcde");
        let warnings = short.load().unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{host}: {warnings:?}");
        assert!(warnings[0].contains("the API key is short"), "{warnings:?}");
    }
}

#[test]
fn an_unspecified_address_is_called_on_loopback() {
    for (listens, called) in [
        ("0.0.0.0:5000", "127.0.0.1:5000"),
        ("[::]:5000", "[::1]:5000"),
        ("192.0.2.1:80", "192.0.2.1:80"),
    ] {
        assert_eq!(on_this_machine(listens.parse().unwrap()), called.parse().unwrap());
    }
}

#[test]
fn nothing_shows_a_secret() {
    let hidden = given()
        .variable("ORDERLY_API_KEY", "hunter2 with a space")
        .variable("DATABASE_URL", "postgres://me:hunter2@host/db?sslmode=maybe")
        .variable("REDIS_URL", "redis://:hunter2@host")
        .file(".env", "ORDERLY_API_KEY hunter2")
        .file("orderly.toml", "api_key = hunter2");
    let error = hidden.load().unwrap_err();
    assert_eq!(error.problems.len(), 4, "{error}");
    let layers = Layers::gather(&hidden.sources);
    for shown in [error.to_string(), format!("{:?}", layers.shown())] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let key = Secret::new("hunter2".to_owned());
    assert_eq!(format!("{key:?}"), "[secret]");
}

#[test]
fn an_unreadable_line_is_reported_by_its_number() {
    let problem = given().file(".env", "PORT=1\n\nPORT is 5\n").problem();
    assert!(problem.contains(".env:3: "), "{problem}");
    let problem = given().file("orderly.toml", "port = 1\nhost = \n").problem();
    assert!(problem.contains("orderly.toml:2: "), "{problem}");
}

#[test]
fn only_loopback_needs_no_key() {
    for host in ["127.0.0.1", "::1", "[::1]", "::ffff:127.0.0.1", "localhost"] {
        given().variable("HOST", host).config();
    }
    for host in ["0.0.0.0", "::", "192.0.2.1"] {
        let reachable = given().variable("HOST", host);
        assert!(reachable.problem().contains("set ORDERLY_API_KEY"), "{host}");
        let with_key = reachable.variable("ORDERLY_API_KEY", "0123456789abcdef");
        assert_eq!(with_key.load().unwrap().warnings, Vec::<String>::new());
    }
    let open = given().variable("HOST", "0.0.0.0").flag("open", "on");
    assert!(open.load().unwrap().warnings[0].contains("asks for no key"));
}

#[test]
fn redis_is_for_postgres_only() {
    let with_redis = given().variable("REDIS_URL", "redis://:hunter2@host");
    assert!(with_redis.problem().contains("one node on SQLite needs none"));
    let config = with_redis
        .variable("DATABASE_URL", "postgres://me@host/db")
        .config();
    let redis = config.redis.unwrap();
    assert_eq!((&*redis.location, &*redis.prefix), ("redis://host", "orderly"));
    assert!(given().config().redis.is_none());
}

const POOLED: &str = "postgresql://me:hunter2@ep-a-pooler.aws.neon.tech/db?sslmode=require";
const DIRECT: &str = "postgresql://me:hunter2@ep-a.aws.neon.tech/db?sslmode=require";

#[test]
fn postgres_has_a_url_and_optionally_a_direct_one() {
    for scheme in ["postgres", "postgresql"] {
        let given = given().variable("DATABASE_URL", &format!("{scheme}://me@host/db"));
        let Database::Postgres(database) = given.config().database else {
            panic!("the database is PostgreSQL");
        };
        assert_eq!(database.url.location, "postgres://host:5432/db");
        assert_eq!(database.direct, None);
    }
    let both = given()
        .file("url", &format!("{POOLED}\n"))
        .file("direct", &format!("{DIRECT}\n"));
    let (url, direct) = (both.path("url"), both.path("direct"));
    let both = both
        .variable("DATABASE_URL_FILE", &url)
        .variable("DATABASE_DIRECT_URL_FILE", &direct)
        .variable("ORDERLY_IDLE_SLEEP", "on");
    let Loaded { config, warnings } = both.load().unwrap();
    assert_eq!(warnings, [""; 0]);
    let Database::Postgres(database) = &config.database else {
        panic!("the database is PostgreSQL");
    };
    assert!(database.url.looks_pooled() && config.idle_sleep);
    let direct = database.direct.as_ref().unwrap();
    assert_eq!(direct.location, "postgres://ep-a.aws.neon.tech:5432/db");
    assert_eq!(direct.server.get_password(), Some("hunter2".as_bytes()));
    let shown = format!("{config:?} {:?}", Layers::gather(&both.sources).shown());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn an_ignored_parameter_causes_a_warning_with_the_name_of_the_setting() {
    let warned = given()
        .variable("DATABASE_URL", &format!("{POOLED}&pgbouncer=true"))
        .file(
            "orderly.toml",
            "database_direct_url = 'postgres://h:6432/other?pool_timeout=1'",
        );
    let warnings = warned.load().unwrap().warnings;
    let (_, of_store) = Layers::gather(&warned.sources).database().unwrap();
    assert_eq!(warnings, of_store);
    for (warning, part) in warnings.iter().zip([
        "DATABASE_URL (from the environment): the parameter `pgbouncer` belongs to another driver",
        "the parameter `pool_timeout` belongs to another driver",
        "leads to a pooler",
        "names another database than DATABASE_URL",
    ]) {
        assert!(warning.contains(part), "{warning}");
        let is_direct = warning.starts_with("database_direct_url (from ");
        assert_eq!(is_direct, !warning.contains("pgbouncer"), "{warning}");
    }
    assert_eq!(warnings.len(), 4, "{warnings:?}");
}

#[test]
fn both_urls_must_be_valid_postgres_urls() {
    let wrong = given()
        .variable("DATABASE_URL", POOLED)
        .variable("DATABASE_DIRECT_URL", "sqlite:data/orderly.db");
    let problem = "DATABASE_DIRECT_URL (from the environment): \
                   not a URL of the form postgres://USER:PASSWORD@HOST/DATABASE";
    assert_eq!(wrong.problem(), problem);
    let error = Layers::gather(&wrong.sources).database().unwrap_err();
    assert_eq!(error.problems, [problem]);
    let unsure = given().variable("DATABASE_URL", "postgres://me:hunter2@host/db?sslmode=maybe");
    assert_eq!(
        unsure.problem(),
        "DATABASE_URL (from the environment): \
         sslmode must be one of disable, prefer, require, verify-ca, verify-full"
    );
}

#[test]
fn postgres_settings_cause_a_warning_with_sqlite() {
    let given = given()
        .variable("DATABASE_DIRECT_URL", DIRECT)
        .variable("ORDERLY_IDLE_SLEEP", "on");
    assert_eq!(
        given.load().unwrap().warnings,
        [
            "DATABASE_DIRECT_URL (from the environment) is set, but has no effect with SQLite",
            "ORDERLY_IDLE_SLEEP (from the environment) is set, but has no effect with SQLite",
        ]
    );
}

#[test]
fn a_client_needs_only_what_it_uses() {
    let given = given()
        .variable("HOST", "0.0.0.0")
        .variable("ORDERLY_URL", "https://orders.example/");
    let client = Layers::gather(&given.sources).client().unwrap();
    assert_eq!(client.url, "https://orders.example");
}
