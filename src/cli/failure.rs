//! Errors that keep a command from doing its work: the lines on stderr and the exit code.

use super::{CONFIGURATION, FAILED};
use crate::causes::with_causes;
use crate::config::ConfigError;
use crate::serve::ServeError;
use crate::store::StoreError;
use crate::store::copy::CopyError;
use crate::store::open::OpenError;
use crate::telemetry::TelemetryError;

#[derive(Debug)]
pub enum Failure {
    /// A retry may help.
    Failed(anyhow::Error),
    /// Only another configuration or another binary helps.
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

    /// Returns the lines for stderr: one, or one per problem of a configuration.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Failure::Failed(error) => vec![with_causes(error.as_ref())],
            Failure::Configuration(problems) => problems.clone(),
        }
    }
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
            | OpenError::FunctionsMissing { .. }
            | OpenError::NotDurable { .. }
            | OpenError::Unsuitable { .. } => Failure::Configuration(vec![with_causes(&error)]),
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
    use crate::http::problem::Problem;

    #[test]
    fn an_error_is_shown_with_all_its_sources_on_one_line() {
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
    fn a_schema_of_another_binary_exits_as_a_configuration_error() {
        let error = OpenError::SchemaNewer {
            location: "sqlite:x.db".to_owned(),
            found: 2,
            known: 1,
        };
        assert_eq!(Failure::from(error).exit_code(), CONFIGURATION);
    }

    #[test]
    fn every_part_of_a_store_error_is_shown_once() {
        type Rendering = fn(StoreError) -> Option<String>;
        let renderings: [(&str, Rendering); 6] = [
            ("by itself", |error| Some(error.to_string())),
            ("with its sources", |error| {
                Some(format!("{:#}", anyhow::Error::new(error)))
            }),
            ("by a command", |error| {
                Some(Failure::from(error).lines().join("\n"))
            }),
            ("by a copy", |error| {
                Some(Failure::from(CopyError::Store(error)).lines().join("\n"))
            }),
            ("by a start", |error| {
                Some(Failure::from(ServeError::Join(error)).lines().join("\n"))
            }),
            // `None` if the client gets everything.
            ("behind a problem", |error| Problem::from(error).cause()),
        ];
        for (place, render) in renderings {
            for (error, parts) in StoreError::each() {
                let Some(text) = render(error) else { continue };
                for part in parts {
                    assert_eq!(text.matches(part).count(), 1, "{part}, shown {place}: {text}");
                }
            }
        }
    }
}
