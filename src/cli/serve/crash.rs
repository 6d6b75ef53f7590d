//! The report that a panic of the server itself leaves behind, for a person to pass on.
//!
//! Handlers and hooks may panic: the server answers and goes on. Any other panic is a bug of the
//! server, after which its state cannot be trusted.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::settings::LogFormat;
use crate::cli::output::printable;

/// Time that the end of the process waits for a slow reader of standard error.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    /// The place and the backtrace of this thread's last panic.
    static LAST: RefCell<Option<(String, Backtrace)>> = const { RefCell::new(None) };
}

/// Keeps panics from writing anything themselves. Those of handlers are events, whose number is
/// limited, and all others are reported by [`or_abort`].
pub(super) fn note_panics() {
    std::panic::set_hook(Box::new(|info| LAST.set(Some((describe(info), Backtrace::capture())))));
}

/// The call that finishes the log, and the format of the log, once there is one.
static LOG: OnceLock<(fn(), LogFormat)> = OnceLock::new();

/// Makes every abort call `finish` first, so that the log is complete before the report, which has the
/// format of the log.
pub(super) fn finish_log_with(finish: fn(), format: LogFormat) {
    // This is called once.
    let _ = LOG.set((finish, format));
}

/// Starts a thread with this name, whose panic is reported and aborts the process.
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(|| or_abort(run))
}

/// Runs `run`. If it panics, reports that and aborts the process, so that the system can keep a
/// core dump.
pub(super) fn or_abort<T>(run: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(returned) => returned,
        Err(_) => abort(),
    }
}

fn abort() -> ! {
    let (what, backtrace) =
        LAST.take().unwrap_or_else(|| ("somewhere".to_owned(), Backtrace::disabled()));
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let thread = thread::current();
    let report = Report {
        timestamp: now(),
        level: "ERROR",
        message: "a bug of ipc-framework has ended this server",
        version: env!("CARGO_PKG_VERSION"),
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        thread: thread.name().unwrap_or("?"),
        panic: &what,
        backtrace,
    };
    let format = LOG.get().map_or(LogFormat::Text, |(finish, format)| {
        finish();
        *format
    });
    last_words(&match format {
        LogFormat::Text => report.text(),
        LogFormat::Json => report.json(),
    });
    std::process::abort()
}

/// The report, with the members that every line of a JSON log has. It is not an event of the log,
/// because the log may be what has panicked.
#[derive(Serialize)]
struct Report<'a> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    version: &'static str,
    platform: String,
    thread: &'a str,
    panic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backtrace: Option<String>,
}

impl Report<'_> {
    fn text(&self) -> String {
        let Self { message, version, platform, thread, panic, backtrace, .. } = self;
        let more = "With RUST_BACKTRACE=1 there is more to report.\n";
        format!(
            "ipc: {message}\n  \
             version: {version}, {platform}\n  \
             thread:  {thread}\n  \
             panic:   {}\n\
             No client should be able to cause this. Please report it where you got \
             ipc-framework, with these lines,\nhow the server was started and what its clients \
             did. First check that the line `panic` does not repeat\na message that must stay \
             secret.\n{}",
            printable(panic),
            backtrace.as_deref().unwrap_or(more)
        )
    }

    fn json(&self) -> String {
        // Text and numbers alone are always JSON.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// Returns the time as the log writes it.
fn now() -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(String::new, |location| format!(" at {location}"));
    format!("{}{place}", text(info.payload()))
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

/// Writes the last message of the process to standard error, and waits a while for its reader.
pub(super) fn last_words(text: &str) {
    // Standard error may be closed.
    let write = |text: &str| drop(io::stderr().write_all(text.as_bytes()));
    let (writing, written) = sync_channel::<()>(0);
    let copy = text.to_owned();
    let on_own_thread = move || {
        write(&copy);
        drop(writing);
    };
    if thread::Builder::new().spawn(on_own_thread).is_err() {
        return write(text);
    }
    let _ = written.recv_timeout(END_TIMEOUT);
}

/// The variable that tests set to the name of a thread that shall panic. Release builds ignore it.
const TEST_VARIABLE: &str = "IPC_TEST_PANIC";

/// Returns whether a test wants this thread to panic.
pub(super) fn is_wanted(thread: &str) -> bool {
    cfg!(debug_assertions) && std::env::var_os(TEST_VARIABLE).is_some_and(|name| name == thread)
}
