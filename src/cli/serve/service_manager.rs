//! What systemd, or whoever else started the server, is told and gives.

use std::io;
use std::time::Duration;

use ipc_framework::{Handle, HandleError, Inherited};
use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::super::Failure;
use super::crash;

/// The sockets this process was given (`LISTEN_FDS`). Called once, before there are threads.
pub(super) fn inherited() -> Result<Vec<Inherited>, Failure> {
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

pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// To be followed by [`ready`].
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager cannot be told of the reload"),
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told how the server goes");
    }
}

/// Tells the service manager again and again that the loop turns, if it wants to know
/// (`WATCHDOG_USEC`).
pub(super) fn watch(handle: Handle) -> io::Result<()> {
    let Some(timeout) = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero()) else {
        return Ok(());
    };
    let interval = (timeout / 2).max(Duration::from_millis(1));
    let watch = move || {
        loop {
            // Answered by the loop itself: one that hangs says nothing.
            match handle.with(|_| ()) {
                Ok(()) => notify(&[NotifyState::Watchdog]),
                Err(HandleError::Stopped) => return,
                Err(error) => tracing::warn!(%error, "the loop does not answer"),
            }
            std::thread::sleep(interval);
        }
    };
    let named = std::thread::Builder::new().name("watchdog".to_owned());
    named.spawn(|| crash::or_abort(watch)).map(drop)
}
