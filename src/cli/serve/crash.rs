//! What a panic of the server itself leaves behind: a report that a person can pass on.
//!
//! Handlers and hooks may panic; the server answers and goes on. Anything else that panics is a
//! bug of ours, after which nothing of the state can be trusted.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::thread;

use super::super::{logging, printable};
use super::log_queue::last_words;

thread_local! {
    /// Where the last panic of this thread was, and how it came there.
    static LAST: RefCell<Option<(String, Backtrace)>> = const { RefCell::new(None) };
}

/// Panics write nothing by themselves: those of handlers are events like others, which are
/// limited in number, and all else is reported by [`or_abort`].
pub(super) fn note_panics() {
    std::panic::set_hook(Box::new(|info| LAST.set(Some((describe(info), Backtrace::capture())))));
}

/// Runs `run`; if it panics, reports that and aborts the process, so that there is a core dump
/// where the system keeps such.
pub(in super::super) fn or_abort<T>(run: impl FnOnce() -> T) -> T {
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
         Nothing that clients send may do this. Please report it, with these lines, how the \
         server was started\nand what its clients did, where you have ipc-framework from; look \
         first whether the line `panic` repeats\na message that is not to be shown.\n",
        printable(&what)
    );
    match backtrace.status() {
        BacktraceStatus::Captured => report += &backtrace.to_string(),
        _ => report += "With RUST_BACKTRACE=1 there is more to report.\n",
    }
    logging::finish();
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

/// What the tests of this program set to a thread to see the report. Other builds do not look
/// at it.
const TEST_VARIABLE: &str = "IPC_TEST_PANIC";

/// Whether a test wants this thread to panic.
pub(super) fn is_wanted(thread: &str) -> bool {
    cfg!(debug_assertions) && std::env::var_os(TEST_VARIABLE).is_some_and(|name| name == thread)
}
