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

/// The call that finishes the log, once there is one.
static FINISH_LOG: OnceLock<fn()> = OnceLock::new();

/// Makes every abort call `finish` first, so that the log is complete before the report.
pub(super) fn finish_log_with(finish: fn()) {
    // This is called once.
    let _ = FINISH_LOG.set(finish);
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
    let version = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let thread = thread::current().name().unwrap_or("?").to_owned();
    let mut report = format!(
        "ipc: a bug of ipc-framework has ended this server\n  \
         version: {version}, {os} {arch}\n  \
         thread:  {thread}\n  \
         panic:   {}\n\
         No client should be able to cause this. Please report it where you got ipc-framework, \
         with these lines,\nhow the server was started and what its clients did. First check \
         that the line `panic` does not repeat\na message that must stay secret.\n",
        printable(&what)
    );
    match backtrace.status() {
        BacktraceStatus::Captured => report += &backtrace.to_string(),
        _ => report += "With RUST_BACKTRACE=1 there is more to report.\n",
    }
    if let Some(finish) = FINISH_LOG.get() {
        finish();
    }
    last_words(&report);
    std::process::abort()
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
