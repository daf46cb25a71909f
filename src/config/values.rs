//! Parsers of single values: durations, numbers, switches, URLs. Errors are meant for an operator and never show a
//! possible secret. `read.rs` maps settings to parsers.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::service_file::ServiceFiles;
use super::{PostgresUrl, Secret};

/// Longer than any generated key, and well within the limit on a request's head.
const API_KEY_CHARS_MAX: usize = 1024;

const NOT_SHOWN: &str = "[not shown]";

/// Problem with a value that holds a control character.
pub const CONTROL_CHARACTER: &str = "holds a control character, such as a newline or a tab: remove it";

pub fn duration(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "`{text}` has no unit: write {text}s for seconds, or {text}ms, {text}m, {text}h, {text}d"
        ));
    }
    let duration = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a duration such as 10ms, 30s, 5m, 2h or 7d"))?;
    if range.contains(&duration) {
        Ok(duration)
    } else {
        let shown = |bound: &Duration| humantime::format_duration(*bound).to_string();
        Err(format!(
            "`{text}` is not between {} and {}",
            shown(range.start()),
            shown(range.end())
        ))
    }
}

/// Parses a retention; `None` for `keep`.
pub fn retention(text: &str, range: &RangeInclusive<Duration>) -> Result<Option<Duration>, String> {
    if text == "keep" {
        return Ok(None);
    }
    duration(text, range)
        .map(Some)
        .map_err(|problem| format!("{problem}; `keep` keeps all orders"))
}

pub fn number<T>(text: &str, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            format!(
                "`{text}` is not a number from {} to {}",
                range.start(),
                range.end()
            )
        })
}

pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err(format!("`{text}` is neither `on` nor `off`")),
    }
}

/// Parses one of a few names.
pub fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!("`{text}` is not {}", names.join(" or "))
        })
}

/// Parsed URL of a store.
#[derive(Debug, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    /// A PostgreSQL URL, and a warning per ignored parameter.
    Postgres(Box<PostgresUrl>, Vec<String>),
}

/// Parses the URL of a store; surrounding whitespace is not part of it.
pub fn database_url(text: &str, services: &ServiceFiles) -> Result<DatabaseUrl, String> {
    let text = text.trim();
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "sqlite" => sqlite_path(&text["sqlite:".len()..]).map(DatabaseUrl::Sqlite),
        scheme if ["postgres", "postgresql"].contains(&scheme) || PostgresUrl::is_in_keywords(text) => {
            let (url, ignored) = PostgresUrl::parse_with(text, services)?;
            Ok(DatabaseUrl::Postgres(Box::new(url), ignored))
        }
        // The text is not shown: it may be a connection string with a password.
        _ => Err("not a URL of the form sqlite:PATH or postgres://HOST/DATABASE".to_owned()),
    }
}

fn sqlite_path(rest: &str) -> Result<PathBuf, String> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() {
        return Err("names no file: use sqlite:PATH".to_owned());
    }
    if path.starts_with(":memory:") {
        return Err("an in-memory database is not durable: use sqlite:PATH".to_owned());
    }
    if path.contains('?') {
        return Err("options after `?` are not supported: use sqlite:PATH".to_owned());
    }
    let file = self::path(path)?;
    if path.ends_with('/') || file.file_name().is_none() {
        return Err("names a folder: add the file name, as in sqlite:data/orderly.db".to_owned());
    }
    Ok(file)
}

/// Parses a path, refusing forms that only a shell expands.
pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('~') {
        return Err("only a shell expands `~`: write the path in full".to_owned());
    }
    if text.contains(char::is_control) {
        return Err(CONTROL_CHARACTER.to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Parses a log filter, and returns its text.
pub fn log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("`{text}` is not a log filter: {error}"))
}

pub fn api_key(text: &str) -> Result<Secret, String> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !visible || text.len() > API_KEY_CHARS_MAX {
        return Err(format!(
            "must be 1 to {API_KEY_CHARS_MAX} visible ASCII characters without spaces"
        ));
    }
    Ok(Secret::new(text.to_owned()))
}

/// Maximum length of a node's name.
const NODE_NAME_CHARS_MAX: usize = 100;

pub fn node_name(text: &str) -> Result<String, String> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !visible || text.len() > NODE_NAME_CHARS_MAX {
        return Err(format!(
            "must be 1 to {NODE_NAME_CHARS_MAX} visible ASCII characters without spaces"
        ));
    }
    Ok(text.to_owned())
}

/// Parses an `http` or `https` address and removes trailing slashes.
pub fn server_url(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("not a URL of the form http://HOST:PORT".to_owned()),
    }
}

/// Returns scheme, host and port of a URL: the parts that never hold a secret.
pub fn address_of(url: &str) -> String {
    let parsed = reqwest::Url::parse(url).ok();
    let address = parsed.and_then(|url| {
        let (scheme, host) = (url.scheme(), url.host_str()?);
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{scheme}://{host}{port}"))
    });
    address.unwrap_or_else(|| NOT_SHOWN.to_owned())
}

/// Returns a URL to show, with `***` for its password, before the host or among the parameters. Text that is not a URL,
/// or whose password has no clear end, is hidden completely.
pub fn without_password(url: &str) -> String {
    if url.starts_with("sqlite:") {
        return with_hidden_parameters(url);
    }
    match url.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => format!("{scheme}://{}", without_scheme(rest)),
        Some(_) | None => NOT_SHOWN.to_owned(),
    }
}

/// RFC 3986, section 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn without_scheme(rest: &str) -> String {
    // A password may hold an unescaped @, slash, ? or #: the last @ ends it.
    let Some((userinfo, host)) = rest.rsplit_once('@') else {
        return with_hidden_parameters(rest);
    };
    // The @ may belong to a parameter, and the text after it to a password there.
    let in_parameters = userinfo
        .split_once('?')
        .is_some_and(|(_, parameters)| parameters.contains('='));
    if in_parameters {
        return NOT_SHOWN.to_owned();
    }
    let host = with_hidden_parameters(host);
    match userinfo.split_once(':') {
        Some((user, _)) => format!("{user}:***@{host}"),
        None => format!("{userinfo}@{host}"),
    }
}

fn with_hidden_parameters(text: &str) -> String {
    let Some((head, parameters)) = text.split_once('?') else {
        return text.to_owned();
    };
    let hidden: Vec<String> = parameters
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if is_secret_name(name) => format!("{name}=***"),
            Some(_) | None => parameter.to_owned(),
        })
        .collect();
    format!("{head}?{}", hidden.join("&"))
}

fn is_secret_name(parameter: &str) -> bool {
    let name = parameter.to_ascii_lowercase();
    ["pass", "secret", "token"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_mins(1);

    #[test]
    fn durations_have_units_and_limits() {
        assert_eq!(duration("10ms", &MINUTE), Ok(Duration::from_millis(10)));
        assert_eq!(duration("1m", &MINUTE), Ok(Duration::from_mins(1)));
        assert_eq!(duration("0s", &MINUTE), Ok(Duration::ZERO));
        assert!(duration("30", &MINUTE).unwrap_err().contains("write 30s"));
        assert!(duration("2m", &MINUTE).unwrap_err().contains("between 0s and 1m"));
        for text in ["", "soon", "-1s", "1 parsec", "99999999999999999999s"] {
            assert!(duration(text, &MINUTE).is_err(), "{text}");
        }
    }

    #[test]
    fn a_retention_is_a_duration_or_keep() {
        let range = Duration::from_hours(24)..=Duration::from_hours(48);
        assert_eq!(retention("keep", &range), Ok(None));
        assert_eq!(retention("1d", &range), Ok(Some(Duration::from_hours(24))));
        for text in ["23h", "3d", "7", "", "forever", "Keep"] {
            let problem = retention(text, &range).unwrap_err();
            assert!(problem.ends_with("; `keep` keeps all orders"), "{problem}");
        }
    }

    #[test]
    fn numbers_stay_in_their_range() {
        assert_eq!(number("5", &(1..=5)), Ok(5_u32));
        for text in ["0", "6", "-1", "1.5", "", "five"] {
            assert!(number(text, &(1..=5_u32)).is_err(), "{text}");
        }
        for text in ["NaN", "inf", "-0.1"] {
            assert!(number(text, &(0.0..=1e6)).is_err(), "{text}");
        }
    }

    #[test]
    fn sqlite_urls_name_a_file() {
        for (url, file) in [
            ("sqlite:data/orderly.db", "data/orderly.db"),
            ("sqlite://data/orderly.db", "data/orderly.db"),
            ("sqlite:/var/lib/orderly.db", "/var/lib/orderly.db"),
            ("sqlite:///var/lib/orderly.db", "/var/lib/orderly.db"),
            ("sqlite:data/orderly.db\n", "data/orderly.db"),
            (" \tsqlite:data/orderly.db \r\n", "data/orderly.db"),
            ("sqlite:data/a b.db", "data/a b.db"),
        ] {
            assert_eq!(
                database_url(url, &ServiceFiles::default()),
                Ok(DatabaseUrl::Sqlite(PathBuf::from(file))),
                "{url}"
            );
        }
        for url in [
            "sqlite:",
            "sqlite://",
            "sqlite::memory:",
            "sqlite:a.db?mode=ro",
            "sqlite:~/orderly.db",
            "sqlite:data/",
            "sqlite:///",
            "sqlite:..",
            "sqlite:a\nb.db",
            "orderly.db",
            "",
        ] {
            assert!(database_url(url, &ServiceFiles::default()).is_err(), "{url}");
        }
    }

    #[test]
    fn an_invalid_store_url_is_not_repeated_in_the_error() {
        for url in [
            "mysql://user:hunter2@host/db",
            "host=x hunter2",
            "host=x password=hunter2 sslmode=maybe",
            "postgres:hunter2",
            "postgresql://user:hunter2@host/db?sslmode=hunter2",
        ] {
            let error = database_url(url, &ServiceFiles::default()).unwrap_err();
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }

    #[test]
    fn the_address_of_a_url_holds_no_secret() {
        for (url, shown) in [
            (
                "https://hunter2@shop.example/hunter2?code=hunter2",
                "https://shop.example",
            ),
            ("http://me:hunter2@127.0.0.1:8000/", "http://127.0.0.1:8000"),
            ("http://[::1]:8000/in", "http://[::1]:8000"),
            ("redis://:hunter2@host:6379/0", "redis://host:6379"),
            ("hunter2", "[not shown]"),
            ("", "[not shown]"),
        ] {
            assert_eq!(address_of(url), shown);
        }
    }

    #[test]
    fn a_shown_url_has_no_password() {
        for (url, shown) in [
            (
                "postgres://me:hunter2@host:5432/db",
                "postgres://me:***@host:5432/db",
            ),
            ("postgres://me:a/b@c@host/db", "postgres://me:***@host/db"),
            (
                "postgres://host/db?user=me&password=hunter2&sslmode=require",
                "postgres://host/db?user=me&password=***&sslmode=require",
            ),
            ("redis://:hunter2@host", "redis://:***@host"),
            ("postgres://me@host/db", "postgres://me@host/db"),
            ("postgres://me:pa?hunter2@host/db", "postgres://me:***@host/db"),
            ("rediss://me:hun#ter2?x@h", "rediss://me:***@h"),
            (
                "postgres://me:hunter2@host/db?passfile=x&token=hunter2",
                "postgres://me:***@host/db?passfile=***&token=***",
            ),
            ("postgres://host/db?password=hun@ter2", "postgres://[not shown]"),
            (
                "postgres://me:a@host/db?password=hun@ter2",
                "postgres://[not shown]",
            ),
            ("host=x password=hunter2", "[not shown]"),
            ("host=x password=hun://ter2", "[not shown]"),
            ("hunter2", "[not shown]"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("sqlite:data/orderly.db", "sqlite:data/orderly.db"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
