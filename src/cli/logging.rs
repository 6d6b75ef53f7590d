//! Events on standard error, for people or for machines.

use std::io::IsTerminal;
use std::sync::OnceLock;

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::Failure;
use super::serve::{Kinds, RateLimit, or_abort};

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Which events are shown: `error`, `warn`, `info` (the default), `debug` or `trace`.
const LEVEL_VARIABLE: &str = "IPC_LOG";

/// Which events are wanted.
pub(super) fn level() -> Result<LevelFilter, Failure> {
    match std::env::var(LEVEL_VARIABLE) {
        Err(_) => Ok(LevelFilter::INFO),
        Ok(level) => level.parse().map_err(|_| {
            Failure::usage(format!(
                "{LEVEL_VARIABLE} is {level:?}; make it error, warn, info, debug or trace"
            ))
        }),
    }
}

/// Writes events from here on, so many of a kind. Whoever logs for the last time has what was
/// not written told by [`finish`].
pub(super) fn init(format: LogFormat) -> Result<(), Failure> {
    let level = level()?;
    let colours = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        // An event that cannot be written must not end the thread that has it to tell.
        .log_internal_errors(false)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    let (limit, reporter) = RateLimit::new(level);
    // It is set once: this is called once.
    let _ = KINDS.set(reporter.kinds.clone());
    let registry = tracing_subscriber::registry();
    match format {
        LogFormat::Text => registry.with(lines).with(limit).init(),
        LogFormat::Json => registry.with(lines.json()).with(limit).init(),
    }
    let named = std::thread::Builder::new().name("suppressed".to_owned());
    named.spawn(|| or_abort(|| reporter.run())).map_err(|error| {
        Failure::runtime(format!("cannot start the thread of the log: {error}"))
    })?;
    Ok(())
}

/// Tells what was kept back and not told of yet.
pub(super) fn finish() {
    if let Some(kinds) = KINDS.get() {
        kinds.report();
    }
}

static KINDS: OnceLock<Kinds> = OnceLock::new();
