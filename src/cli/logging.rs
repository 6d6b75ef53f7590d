//! Events on standard error, for people or for machines.

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::filter::LevelFilter;

use super::Failure;

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Which events are shown: `error`, `warn`, `info` (the default), `debug` or `trace`.
const LEVEL_VARIABLE: &str = "IPC_LOG";

pub(super) fn init(format: LogFormat) -> Result<(), Failure> {
    let level = match std::env::var(LEVEL_VARIABLE) {
        Err(_) => LevelFilter::INFO,
        Ok(level) => level.parse().map_err(|_| {
            Failure::usage(format!(
                "{LEVEL_VARIABLE} is {level:?}; make it error, warn, info, debug or trace"
            ))
        })?,
    };
    let colours = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        // An event that cannot be written must not end the thread that has it to tell.
        .log_internal_errors(false)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
