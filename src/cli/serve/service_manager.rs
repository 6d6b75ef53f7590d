//! Communication with systemd, or another service manager that started the server.

use std::env;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt;
#[cfg(target_os = "linux")]
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc_framework::{Handle, HandleError, Inherited};
use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::crash;
use crate::cli::failure::Failure;

/// Time that the service manager may take to accept a notification.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the sockets that were passed to this process (`LISTEN_FDS`). Called once, before there
/// are threads.
pub(super) fn inherited() -> Result<Vec<Inherited>, Failure> {
    check_count()?;
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..given.len() {
        let socket = match given.take_tcp_listener(at) {
            Ok(listener) => listener.map(Inherited::Tcp),
            Err(_) => match given.take_unix_listener(at) {
                Ok(listener) => listener.map(Inherited::Unix),
                Err(error) => {
                    return Err(Failure::runtime(format!(
                        "socket {at} of those that were passed cannot be used: {error}; pass listening \
                     TCP and Unix stream sockets alone"
                    )));
                }
            },
        };
        sockets.extend(socket);
    }
    Ok(sockets)
}

/// Checks that `LISTEN_FDS` is a number. `listenfd` would ignore it otherwise, and the server would
/// open ports that nobody wanted.
fn check_count() -> Result<(), Failure> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let Some(count) = variable("LISTEN_FDS") else { return Ok(()) };
    let is_for_others =
        variable("LISTEN_PID").is_some_and(|id| id != process::id().to_string().as_str());
    if is_for_others || count.to_str().is_some_and(|count| count.parse::<u16>().is_ok()) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "LISTEN_FDS is {:?}; make it the number of sockets that are passed, or unset it",
        count.to_string_lossy()
    )))
}

/// Set when the server has announced that it stops, after which it is neither ready nor reloading.
static STOPS: Mutex<bool> = Mutex::new(false);

fn stops() -> MutexGuard<'static, bool> {
    STOPS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn ready() {
    let stops = stops();
    if !*stops {
        notify(&[NotifyState::Ready]);
    }
}

/// Announces the stop, once.
pub(super) fn stopping() {
    let mut stops = stops();
    if !std::mem::replace(&mut *stops, true) {
        notify(&[NotifyState::Stopping]);
    }
}

/// Announces a reload. Must be followed by [`ready`].
pub(super) fn reloading() {
    let stops = stops();
    if *stops {
        return;
    }
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager cannot be told of the reload"),
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = send(state) {
        tracing::warn!(%error, "the service manager cannot be told how the server goes");
    }
}

/// Does the same as `sd_notify::notify`, but with a timeout, for a reader that does not read.
fn send(state: &[NotifyState<'_>]) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let lines: Vec<String> = state.iter().map(|state| format!("{state}\n")).collect();
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(NOTIFY_TIMEOUT))?;
    let text = lines.concat();
    #[cfg(target_os = "linux")]
    if let Some(name) = path.as_bytes().strip_prefix(b"@") {
        let address = SocketAddr::from_abstract_name(name)?;
        return socket.send_to_addr(text.as_bytes(), &address).map(drop);
    }
    socket.send_to(text.as_bytes(), path).map(drop)
}

/// Starts to tell the service manager regularly that the loop turns, if it wants to know
/// (`WATCHDOG_USEC`).
pub(super) fn watch(handle: Handle) -> io::Result<()> {
    let Some(timeout) = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero()) else {
        return Ok(());
    };
    let interval = (timeout / 2).max(Duration::from_millis(1));
    let watch = move || {
        loop {
            // The loop itself answers this, so one that hangs is not reported as alive.
            match handle.with(|_| ()) {
                Ok(()) => notify(&[NotifyState::Watchdog]),
                Err(HandleError::Stopped) => return,
                Err(error) => tracing::warn!(%error, "the loop does not answer"),
            }
            std::thread::sleep(interval);
        }
    };
    crash::spawn("watchdog", watch).map(drop)
}
