//! Command line flags generated from the table of settings. `config` parses their values.

use std::marker::PhantomData;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};

use super::failure::Failure;
use super::output;
use crate::config::settings::{Audience, CONFIG_VARIABLE, SETTINGS, Setting};
use crate::config::{Database, Layers, Sources};

/// Section of the settings in `--help`.
pub const HEADING: &str = "Settings";

const CONFIG_ARG: &str = "config";

/// Settings given as flags, among those that a command takes.
pub struct Flags<T> {
    given: Vec<(&'static str, String)>,
    config_file: Option<PathBuf>,
    taker: PhantomData<T>,
}

/// Selects the settings that a command takes.
pub trait Taker {
    fn takes(audience: Audience) -> bool;
}

/// Settings of `serve` and `doctor`.
pub struct Server;
/// Settings of commands that open the store themselves.
pub struct Store;
/// Settings of commands that talk to a server.
pub struct Client;

impl Taker for Server {
    fn takes(audience: Audience) -> bool {
        match audience {
            Audience::Server | Audience::Store => true,
            Audience::Client => false,
        }
    }
}

impl Taker for Store {
    fn takes(audience: Audience) -> bool {
        audience == Audience::Store
    }
}

impl Taker for Client {
    fn takes(audience: Audience) -> bool {
        audience == Audience::Client
    }
}

impl<T: Taker> Flags<T> {
    /// Gathers all settings of this process; these flags take precedence.
    pub fn layers(&self) -> Layers {
        Layers::gather(&Sources::of_process(self.given.clone(), self.config_file.clone()))
    }

    #[cfg(test)]
    pub fn given(&self) -> &[(&'static str, String)] {
        &self.given
    }
}

impl Flags<Store> {
    /// Returns the store named by the settings and prints its warnings to stderr.
    pub fn database(&self) -> Result<Database, Failure> {
        let (database, warnings) = self.layers().database()?;
        for warning in warnings {
            output::message(&warning);
        }
        Ok(database)
    }
}

impl<T: Taker> clap::Args for Flags<T> {
    fn augment_args(command: Command) -> Command {
        let defaults = Layers::defaults();
        let config = Arg::new(CONFIG_ARG)
            .long(CONFIG_ARG)
            .value_name("PATH")
            .value_parser(clap::value_parser!(PathBuf))
            .help_heading(HEADING)
            .help(format!(
                "File of settings instead of orderly.toml. [env: {CONFIG_VARIABLE}]"
            ));
        let flags = taken::<T>().map(|(setting, flag)| argument(setting, flag, &defaults));
        command.arg(config).args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Taker> clap::FromArgMatches for Flags<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = taken::<T>()
            .filter_map(|(setting, _)| {
                let text = matches.get_one::<String>(setting.key)?;
                Some((setting.key, text.clone()))
            })
            .collect();
        Ok(Flags {
            given,
            config_file: matches.get_one::<PathBuf>(CONFIG_ARG).cloned(),
            taker: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn taken<T: Taker>() -> impl Iterator<Item = (&'static Setting, String)> {
    SETTINGS
        .iter()
        .filter(|setting| T::takes(setting.audience))
        .filter_map(|setting| Some((setting, setting.flag()?)))
}

fn argument(setting: &'static Setting, flag: String, defaults: &Layers) -> Arg {
    let default = defaults.get(setting.key).map(|value| value.text.as_str());
    let mut help = format!("{} [env: {}]", setting.documentation(), setting.variable);
    if let Some(default) = default {
        help.push_str(" [default: ");
        help.push_str(default);
        help.push(']');
    }
    let argument = Arg::new(setting.key)
        .long(flag)
        .value_name("VALUE")
        .help_heading(HEADING)
        .help(help);
    match default {
        // A setting that is off by default is turned on by its bare name.
        Some("off") => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("on"),
        Some(_) | None => argument,
    }
}
