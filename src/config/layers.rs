//! Gathers the settings from all sources as text with its origin. `read.rs` interprets the text.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::dot_env;
use super::password_file::PasswordSources;
use super::settings::{
    self, CONFIG_VARIABLE, DEFAULT_FILE, SETTINGS, Secrecy, Setting, VARIABLE_PREFIX, meant_by, suggestion,
};
use super::values::{self, address_of, without_password};

/// Maximum size of a file of settings or a secret, which take a few kilobytes; a larger file was named by mistake.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Sources of settings.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Keys of the table with their texts from the command line.
    pub flags: Vec<(&'static str, String)>,
    /// `--config`.
    pub config_file: Option<PathBuf>,
    pub environment: BTreeMap<String, OsString>,
    /// Folder of `.env` and `orderly.toml`, if they exist.
    pub folder: PathBuf,
}

/// Text of a setting and its origin.
#[derive(Clone, Debug)]
pub struct Value {
    pub text: String,
    pub origin: Origin,
    /// Set when the text was read from a file that the setting named (`…_FILE`).
    pub from_named_file: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Environment,
    /// The `.env` file.
    DotEnv,
    /// `orderly.toml`, or the file named instead.
    File(PathBuf),
    Default,
}

/// The winning text of each setting, and the problems of the sources.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    values: HashMap<&'static str, Value>,
    pub problems: Vec<String>,
    /// Problems that concern only commands that open the store: no setting names it, but an unknown variable seems meant
    /// to. The default store would be the wrong one.
    pub problems_of_store: Vec<String>,
    pub warnings: Vec<String>,
    /// Sources of passwords that the URLs do not hold.
    pub passwords: PasswordSources,
    /// True if the file of settings was found in the current folder or named by its `.env`, not by the operator.
    config_file_is_of_folder: bool,
}

/// A setting as shown by `doctor`, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub variable: &'static str,
    /// `None` if not set.
    pub value: Option<String>,
    pub origin: String,
}

impl Sources {
    /// Returns the sources of this process.
    pub fn of_process(flags: Vec<(&'static str, String)>, config_file: Option<PathBuf>) -> Sources {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect();
        Sources {
            flags,
            config_file,
            environment,
            folder: PathBuf::from("."),
        }
    }
}

impl Layers {
    /// Returns the default settings.
    pub fn defaults() -> Layers {
        let mut layers = Layers::default();
        layers.add_file_text(DEFAULT_FILE, &Origin::Default, "orderly.default.toml");
        layers
    }

    /// Gathers all sources. Never fails: `problems` collects the errors, so that `doctor` can go on.
    pub fn gather(sources: &Sources) -> Layers {
        let mut layers = Layers::defaults();
        let dot_env = layers.read_dot_env(&sources.folder.join(".env"));
        layers.passwords = PasswordSources::of(&sources.environment, &dot_env);
        layers.add_config_file(sources, &dot_env);
        layers.add_variables(&dot_env, &Origin::DotEnv);
        layers.add_variables(&sources.environment, &Origin::Environment);
        for (key, text) in &sources.flags {
            layers.set(key, text, &Origin::Flag);
        }
        layers.excuse_named_store();
        layers
    }

    /// Returns the winning text of a setting, or `None` if it is not set.
    pub fn get(&self, key: &str) -> Option<&Value> {
        debug_assert!(Setting::by_key(key).is_some(), "{key} is not in the table");
        self.values.get(key)
    }

    /// Reports whether a value came from a file in the current folder rather than from the operator.
    pub fn is_of_folder(&self, origin: &Origin) -> bool {
        match origin {
            Origin::DotEnv => true,
            Origin::File(_) => self.config_file_is_of_folder,
            Origin::Flag | Origin::Environment | Origin::Default => false,
        }
    }

    /// Returns every setting in the order of the table.
    pub fn shown(&self) -> Vec<Shown> {
        SETTINGS
            .iter()
            .map(|setting| {
                let value = self.get(setting.key);
                Shown {
                    variable: setting.variable,
                    value: value.map(|value| match setting.secrecy {
                        Secrecy::Public => value.text.clone(),
                        Secrecy::Url => without_password(&value.text),
                        Secrecy::Address => address_of(&value.text),
                        Secrecy::Secret => "[secret]".to_owned(),
                    }),
                    origin: value
                        .map_or_else(|| Origin::Default.to_string(), |value| value.origin.to_string()),
                }
            })
            .collect()
    }

    /// Sets a value without the blanks and newlines around it, which editors and `echo` add. An empty text is not set, so
    /// that `NAME= orderly` equals no setting; a blank one is a problem, or a blank API key would open the server.
    fn set(&mut self, key: &'static str, text: &str, origin: &Origin) {
        if text.is_empty() {
            return;
        }
        let setting = Setting::by_key(key).expect("keys come from the table");
        let text = text.trim();
        // A secret may list two keys on two lines.
        let is_broken = setting.secrecy != Secrecy::Secret && text.contains(char::is_control);
        let problem = if text.is_empty() {
            "is blank"
        } else if is_broken {
            values::CONTROL_CHARACTER
        } else {
            let value = Value {
                text: text.to_owned(),
                origin: origin.clone(),
                from_named_file: false,
            };
            self.values.insert(key, value);
            return;
        };
        self.problems
            .push(format!("{}: {problem}", origin.name_of(setting)));
    }

    fn add_variables(&mut self, variables: &BTreeMap<String, OsString>, origin: &Origin) {
        for setting in SETTINGS {
            let value = self.variable(variables, setting.variable, origin);
            let file_name = setting
                .file_variable()
                .and_then(|name| Some((self.variable(variables, &name, origin)?, name)));
            match (value, file_name) {
                (Some(text), None) => self.set(setting.key, &text, origin),
                (None, Some((path, name))) => match read_named(&path) {
                    // A secret file not yet written must not count as no secret.
                    Ok(text) if text.trim().is_empty() => self
                        .problems
                        .push(format!("{name} ({origin}): {path} is empty or blank")),
                    Ok(text) => {
                        self.set(setting.key, &text, origin);
                        if let Some(value) = self.values.get_mut(setting.key) {
                            value.from_named_file = true;
                        }
                    }
                    Err(error) => self
                        .problems
                        .push(format!("{name} ({origin}): read {path}: {error}")),
                },
                (Some(_), Some((_, name))) => self.problems.push(format!(
                    "{} and {name} ({origin}) are both set: keep one",
                    setting.variable
                )),
                (None, None) => {}
            }
        }
        self.warn_of_unknown(variables, origin);
    }

    fn variable(
        &mut self,
        variables: &BTreeMap<String, OsString>,
        name: &str,
        origin: &Origin,
    ) -> Option<String> {
        let value = variables.get(name).filter(|value| !value.is_empty())?;
        let text = value.to_str();
        if text.is_none() {
            self.problems.push(format!("{name} ({origin}): not UTF-8"));
        }
        text.map(str::to_owned)
    }

    fn warn_of_unknown(&mut self, variables: &BTreeMap<String, OsString>, origin: &Origin) {
        for name in variables.keys() {
            if !name.starts_with(VARIABLE_PREFIX) || settings::variables().any(|known| known == *name) {
                continue;
            }
            let problem = format!("{name} ({origin}) is not a setting");
            match meant_by(name) {
                Some(meant) if meant.names_the_store => self
                    .problems_of_store
                    .push(format!("{problem}: the store is named by {}", meant.variable)),
                Some(meant) => self
                    .warnings
                    .push(format!("{problem}, did you mean {}?", meant.variable)),
                None => self.warnings.push(problem),
            }
        }
    }

    /// Reduces the problems of the store to warnings if the operator named the store: a similar unknown variable then
    /// belongs to another program and must not stop the node.
    fn excuse_named_store(&mut self) {
        let store = self.get("database_url");
        if store.is_some_and(|store| store.origin != Origin::Default) {
            self.warnings.append(&mut self.problems_of_store);
        }
    }

    fn read_dot_env(&mut self, path: &Path) -> BTreeMap<String, OsString> {
        let text = match read_text(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                self.problems.push(format!("read {}: {error}", path.display()));
                String::new()
            }
        };
        let read = dot_env::parse(&text, |name| {
            name.starts_with(VARIABLE_PREFIX) || settings::variables().any(|known| known == name)
        });
        for line in read.bad_lines {
            self.problems.push(format!(
                "{}:{line}: not a line of the form NAME=value",
                path.display()
            ));
        }
        read.variables
    }

    fn add_config_file(&mut self, sources: &Sources, dot_env: &BTreeMap<String, OsString>) {
        let path_in = |variables: &BTreeMap<String, OsString>| {
            let path = variables.get(CONFIG_VARIABLE)?;
            (!path.is_empty()).then(|| PathBuf::from(path))
        };
        let by_operator = sources
            .config_file
            .clone()
            .or_else(|| path_in(&sources.environment));
        self.config_file_is_of_folder = by_operator.is_none();
        let named = by_operator.or_else(|| path_in(dot_env));
        let may_be_missing = named.is_none();
        let path = named.unwrap_or_else(|| sources.folder.join("orderly.toml"));
        let read = match path.to_str() {
            Some(text) => read_named(text),
            None => read_text(&path),
        };
        match read {
            Ok(text) => {
                let shown = path.display().to_string();
                self.add_file_text(&text, &Origin::File(path), &shown);
            }
            Err(error) if may_be_missing && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.problems.push(format!("read {}: {error}", path.display())),
        }
    }

    fn add_file_text(&mut self, text: &str, origin: &Origin, shown_path: &str) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                // The error's own message quotes the line, which may be secret.
                let line = error.span().map_or(0, |span| span.start.min(text.len()));
                let line = text.bytes().take(line).filter(|byte| *byte == b'\n').count() + 1;
                self.problems
                    .push(format!("{shown_path}:{line}: {}", error.message()));
                return;
            }
        };
        for (key, value) in table {
            let Some(setting) = Setting::by_key(&key) else {
                self.problems.push(unknown_key(&key, shown_path));
                continue;
            };
            match plain_text(value) {
                Some(text) => self.set(setting.key, &text, origin),
                None => self.problems.push(format!(
                    "{key} ({shown_path}): must be a text, a number or a boolean"
                )),
            }
        }
    }
}

fn unknown_key(key: &str, shown_path: &str) -> String {
    let lower = key.to_lowercase().replace('-', "_");
    let plain = lower.strip_prefix("orderly_").unwrap_or(&lower);
    let meant = SETTINGS
        .iter()
        .find(|setting| setting.variable.eq_ignore_ascii_case(key))
        .map(|setting| setting.key.to_owned())
        .or_else(|| suggestion(plain, SETTINGS.iter().map(|setting| setting.key.to_owned())));
    format!(
        "{shown_path}: unknown key `{key}`{}",
        meant.map_or_else(String::new, |meant| format!(", did you mean `{meant}`?"))
    )
}

fn plain_text(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Reads a file named by a setting.
fn read_named(path: &str) -> io::Result<String> {
    let path = values::path(path.trim()).map_err(io::Error::other)?;
    read_text(&path)
}

impl Origin {
    /// Returns the name under which a setting was given, with its origin.
    pub fn name_of(&self, setting: &Setting) -> String {
        match self {
            Origin::Flag => format!("--{}", setting.flag().unwrap_or_default()),
            Origin::Environment | Origin::DotEnv | Origin::Default => {
                format!("{} ({self})", setting.variable)
            }
            Origin::File(_) => format!("{} ({self})", setting.key),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => formatter.write_str("from the command line"),
            Origin::Environment => formatter.write_str("from the environment"),
            Origin::DotEnv => formatter.write_str("from .env"),
            Origin::File(path) => write!(formatter, "from {}", path.display()),
            Origin::Default => formatter.write_str("the default"),
        }
    }
}
