//! Why a command could not do its work: the line on stderr and the exit code.

use super::{CONFIGURATION, FAILED};
use crate::config::ConfigError;
use crate::serve::ServeError;
use crate::store::StoreError;
use crate::store::copy::CopyError;
use crate::store::open::OpenError;
use crate::telemetry::TelemetryError;

#[derive(Debug)]
pub enum Failure {
    /// Trying again may help.
    Failed(anyhow::Error),
    /// Nothing helps but another configuration, or another binary.
    Configuration(Vec<String>),
}

impl Failure {
    pub fn failed(attempted: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
        Failure::Failed(anyhow::Error::new(error).context(attempted))
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Failed(_) => FAILED,
            Failure::Configuration(_) => CONFIGURATION,
        }
    }

    /// For stderr: one line, or one for each problem of a configuration.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Failure::Failed(error) => vec![chain(error.as_ref())],
            Failure::Configuration(problems) => problems.clone(),
        }
    }
}

/// An error and all its sources on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        // Some errors show their source themselves.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = error.source();
    }
    line
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Configuration(error.problems)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        match error {
            OpenError::SchemaNewer { .. }
            | OpenError::SchemaOlder { .. }
            | OpenError::SchemaDiffers { .. }
            | OpenError::NotDurable { .. }
            | OpenError::Unsuitable { .. } => Failure::Configuration(vec![chain(&error)]),
            OpenError::InUse { .. } | OpenError::Missing { .. } | OpenError::Unavailable { .. } => {
                Failure::Failed(error.into())
            }
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        match error {
            ServeError::Open(error) => error.into(),
            ServeError::Listen { .. }
            | ServeError::Signals(_)
            | ServeError::Join(_)
            | ServeError::Processor(_)
            | ServeError::StoreFailed(_) => Failure::Failed(error.into()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Failed(error.into())
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Failure {
        match error {
            CopyError::Open(error) => error.into(),
            CopyError::Store(error) => error.into(),
            CopyError::NotEmpty { .. } => Failure::Failed(error.into()),
        }
    }
}

impl From<TelemetryError> for Failure {
    fn from(error: TelemetryError) -> Failure {
        Failure::Failed(error.into())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_all_its_sources_on_one_line() {
        let error = OpenError::Unavailable {
            location: "sqlite:x.db".to_owned(),
            source: anyhow::anyhow!("permission denied").context("open file"),
        };
        let failure = Failure::from(ServeError::Open(error));
        assert_eq!(failure.exit_code(), FAILED);
        assert_eq!(
            failure.lines(),
            ["open the store at sqlite:x.db: open file: permission denied"]
        );
    }

    #[test]
    fn a_schema_of_another_binary_is_a_matter_of_configuration() {
        let error = OpenError::SchemaNewer {
            location: "sqlite:x.db".to_owned(),
            found: 2,
            known: 1,
        };
        assert_eq!(Failure::from(error).exit_code(), CONFIGURATION);
    }
}
