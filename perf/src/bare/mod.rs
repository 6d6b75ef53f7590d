//! The floors: servers that only move bytes.

mod echo;
mod pair;
mod relay;
mod socket;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, Listener};
use crate::poller::Wait;

/// A kind of bare server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BareKind {
    /// Returns bytes as they come; sleeps in epoll.
    Echo,
    /// Returns bytes as they come; asks epoll again and again.
    SpinningEcho,
    /// Returns bytes as they come to a single client; sleeps in `read`.
    ReadWriteEcho,
    /// Returns a frame once all of it has come; sleeps in epoll.
    FrameEcho,
    /// Sends every frame to all subscribers; sleeps in epoll.
    Relay,
    /// Joins the connections in pairs; sleeps in epoll.
    Pair,
}

/// Run one of the bare servers.
#[derive(Args, Debug)]
pub(crate) struct Bare {
    kind: BareKind,
    /// Listen on a Unix socket instead of TCP.
    #[arg(long)]
    unix: Option<PathBuf>,
}

impl Bare {
    pub(crate) fn run(self) -> Result<(), String> {
        let endpoint = self.unix.map_or_else(Endpoint::any_port, Endpoint::Unix);
        let listener = Listener::bind(&endpoint).map_err(|error| format!("bind: {error}"))?;
        println!("listening on {}", listener.endpoint());
        serve(&listener, self.kind)
    }
}

pub(crate) fn serve(listener: &Listener, kind: BareKind) -> Result<(), String> {
    match kind {
        BareKind::Echo => echo::event_loop(listener, Wait::Block, false),
        BareKind::FrameEcho => echo::event_loop(listener, Wait::Block, true),
        BareKind::SpinningEcho => echo::event_loop(listener, Wait::Spin, false),
        BareKind::ReadWriteEcho => echo::read_write(listener),
        BareKind::Relay => relay::event_loop(listener),
        BareKind::Pair => pair::event_loop(listener),
    }
}
