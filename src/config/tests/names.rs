//! Values with whitespace or control characters, and misspelt names.

use super::{Database, given};

const BROKEN: &str = "holds a control character, such as a newline or a tab: remove it";

#[test]
fn whitespace_around_a_value_is_removed() {
    let given = given()
        .variable("DATABASE_URL", "sqlite:data/orders.db\n")
        .variable("ORDERLY_LOG_DIR", " logs\r\n")
        .variable("ORDERLY_API_KEY", "correct-horse-battery\n")
        .variable("PORT", "7\n")
        .file("orderly.toml", "lease = ' 31s '");
    let config = given.config();
    assert_eq!(config.database, Database::Sqlite("data/orders.db".into()));
    assert_eq!(config.log.dir.to_str(), Some("logs"));
    assert_eq!(config.api_key.unwrap().expose(), "correct-horse-battery");
    assert_eq!((config.listen[0].port(), config.lease.as_secs()), (7, 31));
}

#[test]
fn a_url_in_a_file_may_end_in_blank_lines() {
    let given = given().file("url", " sqlite:data/orders.db \n\n");
    let path = format!("{}\n", given.path("url"));
    let config = given.variable("DATABASE_URL_FILE", &path).config();
    assert_eq!(config.database, Database::Sqlite("data/orders.db".into()));
}

#[test]
fn a_control_character_inside_a_value_is_refused() {
    for name in [
        "DATABASE_URL",
        "ORDERLY_LOG_DIR",
        "HOST",
        "REDIS_URL",
        "ORDERLY_URL",
    ] {
        let problem = given().variable(name, "sqlite:data\n/orders.db").problem();
        assert_eq!(problem, format!("{name} (from the environment): {BROKEN}"));
    }
}

#[test]
fn a_blank_value_is_an_error() {
    for name in ["ORDERLY_API_KEY", "DATABASE_URL", "PORT"] {
        let problem = given().variable(name, " \n").problem();
        assert_eq!(problem, format!("{name} (from the environment): is blank"));
    }
}

#[test]
fn a_path_that_only_a_shell_understands_is_refused() {
    let tilde = "only a shell expands `~`: write the path in full";
    for (name, value, because) in [
        ("DATABASE_URL", "sqlite:~/orders.db", tilde),
        ("DATABASE_URL", "postgres://h/d?sslrootcert=~/root.crt", tilde),
        ("DATABASE_URL", "postgres://h/d?passfile=~/.pgpass", tilde),
        ("DATABASE_URL_FILE", "~/url", tilde),
        ("ORDERLY_API_KEY_FILE", "~/key", tilde),
        ("ORDERLY_CONFIG", "~/orderly.toml", tilde),
        ("ORDERLY_LOG_DIR", "~/logs", tilde),
        ("DATABASE_URL", "sqlite:data/", "names a folder"),
    ] {
        let problem = given().variable(name, value).problem();
        assert!(problem.contains(because), "{name}: {problem}");
    }
}

#[test]
fn a_needless_prefix_causes_a_warning_with_the_right_name() {
    for (name, meant) in [("ORDERLY_HOST", "HOST"), ("ORDERLY_PORT", "PORT")] {
        let loaded = given().variable(name, "0.0.0.0").load().unwrap();
        let warning = format!("{name} (from the environment) is not a setting, did you mean {meant}?");
        assert_eq!(loaded.warnings, [warning]);
    }
}

#[test]
fn a_store_under_a_wrong_name_is_an_error() {
    for name in ["ORDERLY_DATABASE_URL", "ORDERLY_DATABASE_URI", "ORDERLY_DATABASE"] {
        let given = given().file(".env", &format!("{name}=postgres://me:hunter2@host/db"));
        let problem = given.problem();
        assert_eq!(
            problem,
            format!("{name} (from .env) is not a setting: the store is named by DATABASE_URL")
        );
        let layers = super::Layers::gather(&given.sources);
        assert_eq!(layers.database().unwrap_err().problems, [problem]);
        assert!(layers.client().is_ok(), "a client opens no store");
    }
}

#[test]
fn a_name_like_the_stores_is_only_a_warning_once_the_store_is_named() {
    let name = "ORDERLY_DATABASE_NAME";
    let problem =
        format!("{name} (from the environment) is not a setting: the store is named by DATABASE_URL");
    let stray = || given().variable(name, "shop");
    assert_eq!(stray().problem(), problem);
    let url = "sqlite:data/orders.db";
    for named in [
        stray().variable("DATABASE_URL", url),
        stray().file(".env", &format!("DATABASE_URL={url}")),
        stray().file("orderly.toml", &format!("database_url = '{url}'")),
        stray().flag("database_url", url),
    ] {
        assert_eq!(named.load().unwrap().warnings, [problem.as_str()]);
        assert!(super::Layers::gather(&named.sources).database().is_ok());
    }
}

#[test]
fn nothing_leads_to_the_setting_that_opens_the_server() {
    for key in ["opn", "opne", "openn", "ope"] {
        let problem = given().file("orderly.toml", &format!("{key} = 'on'")).problem();
        assert!(!problem.contains("`open`"), "{problem}");
        let given = given().variable(&format!("ORDERLY_{}", key.to_uppercase()), "on");
        let warnings = given.load().unwrap().warnings;
        assert!(!warnings[0].contains("did you mean ORDERLY_OPEN"), "{warnings:?}");
    }
}

#[test]
fn commands_find_the_server_of_the_same_settings() {
    let url = |name: &str, value: &str| {
        let given = given().variable(name, value);
        super::Layers::gather(&given.sources).client().unwrap().url
    };
    for (name, value, expected) in [
        ("OTHER", "", "http://127.0.0.1:5000"),
        ("PORT", "8080", "http://127.0.0.1:8080"),
        ("HOST", "0.0.0.0", "http://127.0.0.1:5000"),
        ("HOST", "::", "http://[::1]:5000"),
        ("HOST", "::ffff:127.0.0.1", "http://127.0.0.1:5000"),
        ("HOST", "192.0.2.1", "http://192.0.2.1:5000"),
        ("HOST", "shop.example", "http://shop.example:5000"),
        ("ORDERLY_URL", "https://shop.example", "https://shop.example"),
    ] {
        assert_eq!(url(name, value), expected, "{name}={value}");
    }
    let in_file = given()
        .file("orderly.toml", "port = 8081")
        .variable("HOST", "localhost");
    let client = super::Layers::gather(&in_file.sources).client().unwrap();
    assert_eq!(client.url, "http://localhost:8081");
    let any = given().variable("PORT", "0");
    let error = super::Layers::gather(&any.sources).client().unwrap_err();
    assert!(error.problems[0].contains("ORDERLY_URL"), "{error}");
}

/// Issue 13: in a folder written by another user, a command sent the operator's key to that user's server.
#[test]
fn a_folder_leads_no_key_to_another_machine() {
    const KEY: &str = "correct-horse-battery-staple";
    const THERE: &str = "ORDERLY_URL=https://shop.example";
    let client = |given: super::Given| super::Layers::gather(&given.sources).client();
    let with_key = || given().variable("ORDERLY_API_KEY", KEY);
    let toml = "url = 'https://shop.example'";
    let (config, key_file) = (given().file("other.toml", toml), given().file("key", KEY));
    let named_config = format!("ORDERLY_CONFIG={}", config.path("other.toml"));
    let named_key = format!("{THERE}\nORDERLY_API_KEY_FILE={}", key_file.path("key"));
    for given in [
        with_key().file(".env", THERE),
        with_key().file(".env", "ORDERLY_URL=http://127.0.0.1@shop.example"),
        with_key().file(".env", "HOST=shop.example"),
        with_key().file("orderly.toml", toml),
        with_key().file(".env", &named_config),
        given().file(".env", &named_key),
    ] {
        let error = client(given).unwrap_err();
        assert!(error.problems[0].contains("names another machine"), "{error}");
    }
    let both = format!("{THERE}\nORDERLY_API_KEY={KEY}");
    let mut by_operator = with_key();
    by_operator.sources.config_file = Some(config.path("other.toml").into());
    for given in [
        given().file(".env", THERE),
        given().file(".env", &both),
        with_key().file(".env", "PORT=8080"),
        with_key().file(".env", "ORDERLY_URL=http://localhost:8080"),
        with_key().variable("ORDERLY_URL", "https://shop.example"),
        with_key().flag("url", "https://shop.example").file(".env", THERE),
        by_operator,
    ] {
        client(given).unwrap();
    }
}

#[test]
fn the_last_of_two_lines_counts_and_others_are_passed_over() {
    let text = "COMPOSE_FILE\nset -a\nexport OTHER='x\nPORT=1\nPORT=2\n";
    assert_eq!(given().file(".env", text).config().listen[0].port(), 2);
}

#[test]
fn a_password_that_is_not_utf8_ends_the_start() {
    let mut given = given().variable("DATABASE_URL", "postgres://me@host/db");
    let broken = std::os::unix::ffi::OsStringExt::from_vec(b"caf\xe9".to_vec());
    given.sources.environment.insert("PGPASSWORD".to_owned(), broken);
    let expected = "DATABASE_URL (from the environment): the password in PGPASSWORD is not UTF-8";
    assert_eq!(given.problem(), expected);
}

#[test]
fn a_password_comes_from_where_psql_takes_it() {
    let password = |given: super::Given| {
        let Database::Postgres(database) = given.config().database else {
            panic!("the database is PostgreSQL");
        };
        let password = database.url.config().get_password().map(<[u8]>::to_vec);
        password.map(|password| String::from_utf8(password).unwrap())
    };
    let url = || given().variable("DATABASE_URL", "postgres://me@host/db");
    assert_eq!(password(url()), None);
    let from_variable = password(url().variable("PGPASSWORD", "hunter2"));
    assert_eq!(from_variable.as_deref(), Some("hunter2"));
    let from_dot_env = password(url().file(".env", "PGPASSWORD=hunter2"));
    assert_eq!(from_dot_env.as_deref(), Some("hunter2"));
    let both = url().variable("DATABASE_DIRECT_URL", "postgres://me@direct/db");
    let both = both.variable("PGPASSWORD", "hunter2").config().database;
    let Database::Postgres(both) = both else {
        panic!("the database is PostgreSQL");
    };
    let direct = both.direct.expect("it is named");
    assert_eq!(direct.server.get_password(), Some(&b"hunter2"[..]));
    let home = url().file(".pgpass", "host:*:db:me:hunter2\n");
    let path = home.path(".pgpass");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private).unwrap();
    let folder = home.path("");
    let from_home = password(home.variable("HOME", &folder));
    assert_eq!(from_home.as_deref(), Some("hunter2"));
}
