//! PostgreSQL service files: named connection parameters, shared with other programs of the machine
//! (<https://www.postgresql.org/docs/current/libpq-pgservice.html>). `postgres_url.rs` interprets the parameters.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Names of the service file in the home folder and in the system's.
const FILE_NAME_AT_HOME: &str = ".pg_service.conf";
const FILE_NAME: &str = "pg_service.conf";
/// Folder of the system's file in the packages of Debian and of PostgreSQL's own site.
const SYSTEM_FOLDER: &str = "/etc/postgresql-common";

/// Names and values of connection parameters.
pub type Parameters = Vec<(String, Vec<u8>)>;

/// Files that may describe a service.
#[derive(Clone, Debug, Default)]
pub struct ServiceFiles {
    /// Paths in search order.
    paths: Vec<PathBuf>,
}

impl ServiceFiles {
    /// Returns the named file (`PGSERVICEFILE`) or the one in the home folder, then the system's (`PGSYSCONFDIR`).
    pub fn of(named: Option<PathBuf>, home: Option<&Path>, system: Option<PathBuf>) -> ServiceFiles {
        let at_home = home.map(|home| home.join(FILE_NAME_AT_HOME));
        let system = system.unwrap_or_else(|| PathBuf::from(SYSTEM_FOLDER));
        ServiceFiles {
            paths: named
                .or(at_home)
                .into_iter()
                .chain([system.join(FILE_NAME)])
                .collect(),
        }
    }

    /// Returns the parameters of a service in the order of the file. The error shows none of their values.
    pub fn parameters(&self, service: &str) -> Result<Parameters, String> {
        for path in &self.paths {
            let text = match fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("cannot read the services in {}: {error}", path.display())),
            };
            let found = section(&text, service)
                .map_err(|line| format!("line {line} of {} is not of the form NAME=VALUE", path.display()))?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        if self.paths.is_empty() {
            return Err("no service file is known".to_owned());
        }
        let looked_at: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        Err(format!(
            "the service is described in none of the files: {}",
            looked_at.join(", ")
        ))
    }
}

/// Returns the parameters under `[service]`, or the number of an invalid line in it.
fn section(text: &str, service: &str) -> Result<Option<Parameters>, usize> {
    let mut found: Option<Parameters> = None;
    let mut inside = false;
    for (number, line) in (1_usize..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            inside = name.strip_suffix(']') == Some(service);
            if inside {
                found = Some(Vec::new());
            }
            continue;
        }
        if let Some(parameters) = found.as_mut().filter(|_| inside) {
            let (name, value) = line.split_once('=').ok_or(number)?;
            // As in libpq, the first line with a name wins.
            if parameters.iter().all(|(known, _)| known != name) {
                parameters.push((name.to_owned(), value.as_bytes().to_vec()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(at_home: &str) -> (tempfile::TempDir, ServiceFiles) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME_AT_HOME), at_home).unwrap();
        let system = Some(folder.path().join("system"));
        let files = ServiceFiles::of(None, Some(folder.path()), system);
        (folder, files)
    }

    #[test]
    fn a_service_has_the_parameters_under_its_name() {
        let text =
            "# of the shop\n[other]\nhost=no\n\n[orders]\n host=a,b \nhost=later\nport=1\n[last]\nport=2\n";
        let (_folder, files) = files(text);
        let expected = [("host", "a,b"), ("port", "1")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        assert_eq!(files.parameters("orders").unwrap(), expected);
    }

    #[test]
    fn a_missing_or_broken_service_is_reported_without_its_values() {
        let (_folder, files) = files("[orders]\nhunter2\n");
        let broken = files.parameters("orders").unwrap_err();
        assert!(broken.contains("line 2 of "), "{broken}");
        assert!(!broken.contains("hunter2"), "{broken}");
        let missing = files.parameters("order").unwrap_err();
        assert!(missing.contains(FILE_NAME_AT_HOME), "{missing}");
    }
}
