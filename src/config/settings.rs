//! The one table of settings: what each is called in the file, in the environment and on the command line. Their
//! defaults and their documentation are in `orderly.default.toml`, their meaning in `read.rs`.

/// The defaults, with a comment on every setting.
pub const DEFAULT_FILE: &str = include_str!("../../orderly.default.toml");

/// Names a file to be read instead of `orderly.toml`.
pub const CONFIG_VARIABLE: &str = "ORDERLY_CONFIG";

/// Whoever misspells a variable that begins like this is told.
pub const VARIABLE_PREFIX: &str = "ORDERLY_";

#[derive(Debug)]
pub struct Setting {
    /// Its key in `orderly.toml`.
    pub key: &'static str,
    /// Its environment variable.
    pub variable: &'static str,
    pub secrecy: Secrecy,
    pub audience: Audience,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    Public,
    /// A URL that may carry a password: shown without it, can come from a file.
    Url,
    /// Never shown, can come from a file, has no flag: a command line is there for all to see.
    Secret,
}

/// Whose command lines take it as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Server,
    /// The server, and commands that open the store themselves.
    Store,
    /// Commands that talk to a server.
    Client,
}

const fn setting(key: &'static str, variable: &'static str, secrecy: Secrecy, audience: Audience) -> Setting {
    Setting {
        key,
        variable,
        secrecy,
        audience,
    }
}

/// In the order of `orderly.default.toml`.
pub const SETTINGS: [Setting; 34] = {
    use Audience::{Client, Server, Store};
    use Secrecy::{Public, Secret, Url};
    [
        setting("host", "HOST", Public, Server),
        setting("port", "PORT", Public, Server),
        setting("database_url", "DATABASE_URL", Url, Store),
        setting("database_direct_url", "DATABASE_DIRECT_URL", Url, Store),
        setting("redis_url", "REDIS_URL", Url, Server),
        setting("idle_sleep", "ORDERLY_IDLE_SLEEP", Public, Server),
        setting("migrate", "ORDERLY_MIGRATE", Public, Server),
        setting("concurrency", "ORDERLY_CONCURRENCY", Public, Server),
        setting("max_connections", "ORDERLY_MAX_CONNECTIONS", Public, Server),
        setting("max_attempts", "ORDERLY_MAX_ATTEMPTS", Public, Server),
        setting("retry_base", "ORDERLY_RETRY_BASE", Public, Server),
        setting("retry_cap", "ORDERLY_RETRY_CAP", Public, Server),
        setting("max_crashes", "ORDERLY_MAX_CRASHES", Public, Server),
        setting("lease", "ORDERLY_LEASE", Public, Server),
        setting("attempt_timeout", "ORDERLY_ATTEMPT_TIMEOUT", Public, Server),
        setting("processor", "ORDERLY_PROCESSOR", Public, Server),
        setting("processor_url", "ORDERLY_PROCESSOR_URL", Url, Server),
        setting("processor_secret", "ORDERLY_PROCESSOR_SECRET", Secret, Server),
        setting(
            "processor_connect_timeout",
            "ORDERLY_PROCESSOR_CONNECT_TIMEOUT",
            Public,
            Server,
        ),
        setting(
            "processor_response_timeout",
            "ORDERLY_PROCESSOR_RESPONSE_TIMEOUT",
            Public,
            Server,
        ),
        setting("simulated_speed", "ORDERLY_SIMULATED_SPEED", Public, Server),
        setting(
            "simulated_failure_rate",
            "ORDERLY_SIMULATED_FAILURE_RATE",
            Public,
            Server,
        ),
        setting("rate_limit", "ORDERLY_RATE_LIMIT", Public, Server),
        setting("ordering", "ORDERLY_ORDERING", Public, Server),
        setting(
            "ordering_on_failure",
            "ORDERLY_ORDERING_ON_FAILURE",
            Public,
            Server,
        ),
        setting("shutdown_grace", "ORDERLY_SHUTDOWN_GRACE", Public, Server),
        setting("max_pending", "ORDERLY_MAX_PENDING", Public, Server),
        setting("retention", "ORDERLY_RETENTION", Public, Server),
        setting("api_key", "ORDERLY_API_KEY", Secret, Server),
        setting("open", "ORDERLY_OPEN", Public, Server),
        setting("log_filter", "RUST_LOG", Public, Server),
        setting("log_format", "ORDERLY_LOG_FORMAT", Public, Server),
        setting("log_dir", "ORDERLY_LOG_DIR", Public, Server),
        setting("url", "ORDERLY_URL", Url, Client),
    ]
};

impl Setting {
    pub fn by_key(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The long flag without its dashes; secrets have none.
    pub fn flag(&self) -> Option<String> {
        match self.secrecy {
            Secrecy::Public | Secrecy::Url => Some(self.key.replace('_', "-")),
            Secrecy::Secret => None,
        }
    }

    /// The variable that names a file holding the value; only what may be secret has one.
    pub fn file_variable(&self) -> Option<String> {
        match self.secrecy {
            Secrecy::Public => None,
            Secrecy::Url | Secrecy::Secret => Some(format!("{}_FILE", self.variable)),
        }
    }

    /// The comment above the setting in the default file, as one line.
    pub fn documentation(&self) -> String {
        let mut comment: Vec<&str> = Vec::new();
        for line in DEFAULT_FILE.lines() {
            if let Some(text) = line.strip_prefix('#') {
                comment.push(text.trim());
            } else if line.split('=').next().is_some_and(|key| key.trim() == self.key) {
                break;
            } else {
                comment.clear();
            }
        }
        comment.join(" ")
    }
}

/// The known name that an unknown one was probably meant to be.
pub fn suggestion(unknown: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    /// Below this Jaro-Winkler similarity two names of this table have little more than a word in common.
    const SIMILARITY_MIN: f64 = 0.85;
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(unknown, &name), name))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| name)
}

/// All variables that mean something, those that name files included.
pub fn variables() -> impl Iterator<Item = String> {
    SETTINGS
        .iter()
        .flat_map(|setting| [Some(setting.variable.to_owned()), setting.file_variable()])
        .flatten()
        .chain([CONFIG_VARIABLE.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_default_file_have_the_same_settings() {
        let file: toml::Table = DEFAULT_FILE.parse().unwrap();
        let mut in_file: Vec<&str> = file.keys().map(String::as_str).collect();
        let mut in_table: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        in_file.sort_unstable();
        in_table.sort_unstable();
        assert_eq!(in_file, in_table);
    }

    #[test]
    fn every_setting_is_documented() {
        for setting in &SETTINGS {
            assert!(setting.documentation().ends_with('.'), "{}", setting.key);
        }
        assert_eq!(
            Setting::by_key("max_attempts").unwrap().documentation(),
            "Attempts before an order is Failed, 1 to 1000."
        );
    }

    #[test]
    fn a_misspelt_name_is_recognised() {
        let suggested = |name: &str| suggestion(name, variables());
        assert_eq!(
            suggested("ORDERLY_CONCURENCY").as_deref(),
            Some("ORDERLY_CONCURRENCY")
        );
        let keys = || SETTINGS.iter().map(|setting| setting.key.to_owned());
        assert_eq!(suggestion("prot", keys()).as_deref(), Some("port"));
        assert_eq!(suggestion("colour", keys()), None);
    }
}
