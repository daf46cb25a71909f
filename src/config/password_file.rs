//! Finds a database password that the URL lacks: first in `PGPASSWORD`, then per host in the password file, by libpq's
//! rules (<https://www.postgresql.org/docs/current/libpq-pgpass.html>).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio_postgres::config::Host;

use super::service_file::ServiceFiles;
use super::{OneHost, PostgresUrl, Secret};

/// Name of the password file in the home folder.
const FILE_NAME: &str = ".pgpass";
/// Permissions of other users; libpq ignores a file with any of them.
const RIGHTS_OF_OTHERS: u32 = 0o077;
/// Socket folders that libpq uses when no host is named; the file calls such a host `localhost`.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const LOCALHOST: &str = "localhost";

/// Sources of a password.
#[derive(Clone, Debug, Default)]
pub struct PasswordSources {
    /// `PGPASSWORD`; an error if it is not UTF-8.
    password: Option<Result<Secret, NotUtf8>>,
    /// `PGPASSFILE`
    file: Option<PathBuf>,
    home: Option<PathBuf>,
    services: ServiceFiles,
}

#[derive(Clone, Copy, Debug)]
struct NotUtf8;

impl PasswordSources {
    /// Takes the sources from the environment, then from `.env`.
    pub fn of(environment: &BTreeMap<String, OsString>, dot_env: &BTreeMap<String, OsString>) -> Self {
        let variable = |name: &str| {
            let layers = [environment, dot_env].into_iter();
            let mut values = layers.filter_map(|variables| variables.get(name));
            values.find(|value| !value.is_empty()).cloned()
        };
        let path = |name: &str| variable(name).map(PathBuf::from);
        let home = environment.get("HOME").map(PathBuf::from);
        PasswordSources {
            password: variable("PGPASSWORD")
                .map(|value| value.into_string().map(Secret::new).map_err(|_| NotUtf8)),
            file: path("PGPASSFILE"),
            services: ServiceFiles::of(path("PGSERVICEFILE"), home.as_deref(), path("PGSYSCONFDIR")),
            home,
        }
    }

    /// Returns the files that may describe a URL's service.
    pub fn services(&self) -> &ServiceFiles {
        &self.services
    }

    /// Adds a missing password to the URL and returns warnings for the operator. Fails if the password cannot be used.
    pub fn complete(&self, url: &mut PostgresUrl) -> Result<Vec<String>, String> {
        if url.server.get_password().is_some() {
            return Ok(Vec::new());
        }
        match &self.password {
            Some(Ok(password)) => {
                url.server.password(password.expose());
                Ok(Vec::new())
            }
            Some(Err(NotUtf8)) => Err("the password in PGPASSWORD is not UTF-8".to_owned()),
            None => Ok(self.complete_from_file(url)),
        }
    }

    fn complete_from_file(&self, url: &mut PostgresUrl) -> Vec<String> {
        let named = url.password_file.as_ref().or(self.file.as_ref());
        let Some(path) = named
            .cloned()
            .or_else(|| Some(self.home.as_ref()?.join(FILE_NAME)))
        else {
            return Vec::new();
        };
        let text = match read_private(&path) {
            Ok(text) => text,
            Err(warning) => return warning.into_iter().collect(),
        };
        let servers = Self::servers(url);
        for (host, server) in url.hosts.iter_mut().zip(&servers) {
            host.password = password_for(server, &text).map(Secret::new);
        }
        Vec::new()
    }

    /// Returns host, port, database and user of each server of the URL, as the file names them.
    fn servers(url: &PostgresUrl) -> Vec<[String; 4]> {
        let server = &url.server;
        // The driver uses `whoami` too. `$USER` may be another user, under `sudo` or in a service.
        let user = server.get_user().map(str::to_owned);
        let user = user.or_else(|| whoami::username().ok()).unwrap_or_default();
        let database = server.get_dbname().unwrap_or(&user);
        let name = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(folder) if SOCKET_FOLDERS.iter().any(|known| folder == Path::new(known)) => {
                LOCALHOST.to_owned()
            }
            Host::Unix(folder) => folder.display().to_string(),
        };
        let named = |host: &OneHost| {
            [
                name(&host.name),
                host.port.to_string(),
                database.to_owned(),
                user.clone(),
            ]
        };
        url.hosts.iter().map(named).collect()
    }
}

/// Returns the text of a file that no other user can read. Otherwise a warning, or none if the file does not exist.
fn read_private(path: &Path) -> Result<String, Option<String>> {
    let ignored = |reason: &str| Some(format!("the password file {} {reason}", path.display()));
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(None),
        Err(error) => return Err(ignored(&format!("cannot be read and is ignored: {error}"))),
    };
    if !found.is_file() {
        return Err(ignored("is not a plain file and is ignored"));
    }
    if found.permissions().mode() & RIGHTS_OF_OTHERS != 0 {
        return Err(ignored("can be read by others and is ignored: chmod 600 it"));
    }
    fs::read_to_string(path).map_err(|error| ignored(&format!("cannot be read and is ignored: {error}")))
}

/// Returns the password of the first matching line; `None` if it is empty.
fn password_for(server: &[String; 4], text: &str) -> Option<String> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let password = lines.find_map(|line| {
        let mut rest = line;
        for wanted in server {
            let (field, after) = split_field(rest)?;
            if field != "*" && unescaped(field) != *wanted {
                return None;
            }
            rest = after;
        }
        // Further fields may follow the password, for later versions of the format.
        let password = split_field(rest).map_or(rest, |(password, _)| password);
        Some(unescaped(password))
    });
    password.filter(|password| !password.is_empty())
}

/// Splits at the first colon without a backslash before it.
fn split_field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            ':' if !escaped => return Some((&text[..at], &text[at + 1..])),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

fn unescaped(field: &str) -> String {
    let mut characters = field.chars();
    let mut text = String::with_capacity(field.len());
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            plain => text.push(plain),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords(url: &str, file: &str) -> Vec<Option<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwords");
        fs::write(&path, file).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let sources = PasswordSources {
            file: Some(path),
            ..PasswordSources::default()
        };
        let (mut url, _) = PostgresUrl::parse(url).unwrap();
        assert_eq!(sources.complete(&mut url).unwrap(), [""; 0]);
        let password = |host: &OneHost| Some(host.password.as_ref()?.expose().to_owned());
        url.hosts.iter().map(password).collect()
    }

    fn password(url: &str, file: &str) -> Option<String> {
        passwords(url, file).remove(0)
    }

    #[test]
    fn the_first_matching_line_gives_the_password() {
        for (line, expected) in [
            ("host:5432:db:shop:right", Some("right")),
            ("*:*:*:*:right", Some("right")),
            (
                "# *:*:*:*:no\nother:5432:db:shop:no\nhost:*:db:shop:right",
                Some("right"),
            ),
            ("host:5432:db:shop:a\\:b\\\\c", Some("a:b\\c")),
            ("host:5432:db:shop:right:more", Some("right")),
            ("host:5433:db:shop:no", None),
            ("host:5432:db:other:no", None),
            ("host:5432:db:shop:", None),
            ("host:5432:db", None),
            ("", None),
        ] {
            let found = password("postgres://shop@host/db", line);
            assert_eq!(found.as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn each_host_gets_the_password_of_its_own_line() {
        let url = "postgres://me@one,two:7/db";
        for (file, expected) in [
            ("two:7:*:*:apple\none:*:*:*:pear", [Some("pear"), Some("apple")]),
            ("two:*:*:*:pear", [None, Some("pear")]),
            ("*:*:*:*:pear", [Some("pear"), Some("pear")]),
            ("three:*:*:*:pear", [None, None]),
        ] {
            let found = passwords(url, file);
            let found: Vec<Option<&str>> = found.iter().map(Option::as_deref).collect();
            assert_eq!(found, expected, "{file}");
        }
    }

    #[test]
    fn a_socket_in_a_default_folder_is_localhost() {
        let url = "postgres://me@/db?host=/var/run/postgresql";
        assert_eq!(
            password(url, "localhost:5432:db:me:right").as_deref(),
            Some("right")
        );
        let url = "postgres://me@/db?host=/run/other";
        assert_eq!(
            password(url, "localhost:*:db:me:no\n/run/other:*:*:*:right").as_deref(),
            Some("right")
        );
    }

    #[test]
    fn a_url_without_a_user_is_looked_up_under_the_drivers_user_name() {
        let user = whoami::username().unwrap();
        let file = format!("host:*:{user}:{user}:right");
        assert_eq!(password("postgres://host", &file).as_deref(), Some("right"));
        let file = format!("host:*:{user}:not-{user}:no");
        assert_eq!(password("postgres://host", &file), None);
    }

    #[test]
    fn a_password_that_is_not_utf8_is_a_problem_only_if_needed() {
        let broken = std::os::unix::ffi::OsStringExt::from_vec(b"caf\xe9".to_vec());
        let environment = BTreeMap::from([("PGPASSWORD".to_owned(), broken)]);
        let sources = PasswordSources::of(&environment, &BTreeMap::new());
        let complete = |url: &str| {
            let (mut url, _) = PostgresUrl::parse(url).unwrap();
            sources.complete(&mut url)
        };
        let problem = complete("postgres://me@host/db").unwrap_err();
        assert_eq!(problem, "the password in PGPASSWORD is not UTF-8");
        assert_eq!(complete("postgres://me:own@host/db").unwrap(), [""; 0]);
    }

    #[test]
    fn a_file_readable_by_others_is_ignored_with_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwords");
        fs::write(&path, "*:*:*:*:right").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        for (file, warned) in [
            (path, "can be read by others"),
            (folder.path().to_owned(), "is not a plain file"),
        ] {
            let sources = PasswordSources {
                file: Some(file),
                ..PasswordSources::default()
            };
            let (mut url, _) = PostgresUrl::parse("postgres://me@host/db").unwrap();
            let warnings = sources.complete(&mut url).unwrap();
            assert!(warnings[0].contains(warned), "{warnings:?}");
            assert_eq!(url.server.get_password(), None);
        }
    }

    #[test]
    fn the_url_wins_over_the_variable_and_the_variable_over_the_file() {
        let sources = PasswordSources {
            password: Some(Ok(Secret::new("variable".to_owned()))),
            ..PasswordSources::default()
        };
        for (url, expected) in [
            ("postgres://me@host/db", "variable"),
            ("postgres://me:@host/db", "variable"),
            ("postgres://me:own@host/db", "own"),
        ] {
            let (mut url, _) = PostgresUrl::parse(url).unwrap();
            sources.complete(&mut url).unwrap();
            assert_eq!(url.server.get_password(), Some(expected.as_bytes()));
        }
        assert!(!format!("{sources:?}").contains("variable"));
    }
}
