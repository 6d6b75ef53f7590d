//! The settings on the command line and in the environment.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::settings::Settings;

/// Settings from flags, and below them from variables such as `IPC_PORT`.
#[derive(Clone, Debug)]
pub(super) struct Flags(pub(super) Settings);

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        Settings::augment_args(command).mut_args(|argument| argument.hide_env_values(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Settings::from_arg_matches(matches)?;
        for (id, switch) in settings.switches() {
            if !is_given(matches, id) {
                // Its default value, false, would override the file.
                *switch = None;
            }
        }
        if settings.is_without_tcp() {
            match stronger(matches, "no_tcp", &["host", "port"])? {
                Stronger::Switch => (settings.host, settings.port) = (None, None),
                Stronger::Other => settings.no_tcp = None,
            }
        }
        if settings.no_shm == Some(true) && settings.shm == Some(true) {
            match stronger(matches, "no_shm", &["shm"])? {
                Stronger::Switch => settings.shm = None,
                Stronger::Other => settings.no_shm = None,
            }
        }
        if settings.busy == Some(true) {
            match stronger(matches, "busy", &["spin"])? {
                Stronger::Switch => settings.spin = None,
                Stronger::Other => settings.busy = None,
            }
        }
        Ok(Self(settings))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue)
}

fn is_typed(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

enum Stronger {
    Switch,
    Other,
}

/// Decides between a switch and the settings that contradict it. A flag overrides a variable, because
/// variables such as `IPC_HOST` are often set for the clients. Two flags are an error, and so are two
/// variables.
fn stronger(matches: &ArgMatches, switch: &str, others: &[&str]) -> Result<Stronger, clap::Error> {
    let typed = others.iter().find(|other| is_typed(matches, other));
    let given = others.iter().find(|other| is_given(matches, other));
    match (is_typed(matches, switch), typed, given) {
        (true, None, _) | (false, None, None) => Ok(Stronger::Switch),
        (false, Some(_), _) => Ok(Stronger::Other),
        (true, Some(other), _) => Err(conflict(&flag(switch), &flag(other))),
        (false, None, Some(other)) => Err(conflict(&variable(switch), &variable(other))),
    }
}

fn flag(id: &str) -> String {
    format!("--{}", id.replace('_', "-"))
}

fn variable(id: &str) -> String {
    format!("IPC_{}", id.to_uppercase())
}

fn conflict(one: &str, other: &str) -> clap::Error {
    let text = format!("{one} contradicts {other}; leave out one of them\n");
    clap::Error::raw(ErrorKind::ArgumentConflict, text)
}
