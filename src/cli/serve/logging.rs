//! Events on standard error, for people or for machines.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::crash;
use super::log_queue::LogQueue;
use super::rate_limit::{Kinds, RateLimit};
use super::settings::LogFormat;
use crate::cli::failure::Failure;

/// The variable with the level of shown events: `error`, `warn`, `info` (the default), `debug` or
/// `trace`.
const LEVEL_VARIABLE: &str = "IPC_LOG";

/// Returns the level of events that are shown.
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

/// Starts the log, which writes a limited number of events of each kind and never makes a thread
/// with an event wait. Must be followed by [`finish`], however the process ends.
pub(super) fn init(format: LogFormat) -> Result<(), Failure> {
    let level = level()?;
    let colours = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let cannot = |error| Failure::runtime(format!("cannot start the threads of the log: {error}"));
    let queue = LogQueue::start().map_err(cannot)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        // An event that cannot be written must not end its thread.
        .log_internal_errors(false)
        .with_ansi(colours)
        .with_writer(queue.clone());
    let (limit, reporter) = RateLimit::new(level);
    // This function is called once, so the log is not set yet.
    let _ = LOG.set((reporter.kinds.clone(), queue));
    let registry = tracing_subscriber::registry();
    match format {
        LogFormat::Text => registry.with(lines).with(limit).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).with(limit).init(),
    }
    crash::finish_log_with(finish, format);
    crash::spawn("suppressed", || reporter.run()).map_err(cannot)?;
    Ok(())
}

/// Reports events that were suppressed since the last report, and waits a while until everything
/// has been written.
pub(super) fn finish() {
    if let Some((kinds, queue)) = LOG.get() {
        kinds.report();
        queue.finish();
    }
}

static LOG: OnceLock<(Kinds, LogQueue)> = OnceLock::new();
