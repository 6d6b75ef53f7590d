//! What the broker tells its driver and its hooks.

use std::collections::VecDeque;
use std::sync::Arc;

use super::keys::{ChannelKey, ConnectionKey};

/// A connection as its hooks and the listings show it.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// server.on_connect(|info, _| println!("{} of {} is here", info.connection_id, info.app_id));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo<'a> {
    /// What to address it by.
    pub key: ConnectionKey,
    /// The application it belongs to.
    pub app_id: &'a str,
    /// What it calls itself. Peers are never shown one another's.
    pub connection_id: &'a str,
}

#[derive(Debug)]
pub(crate) struct ConnectionEvent {
    pub(crate) opened: bool,
    pub(crate) key: ConnectionKey,
    pub(crate) app_id: Arc<str>,
    pub(crate) connection_id: Arc<str>,
}

/// What the driver is to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send what [`Broker::output`] has, and report it to [`Broker::transmitted`].
    Flush(ConnectionKey),
    /// Call [`Broker::receive`] in the next turn, with nothing if nothing was read.
    Resume(ConnectionKey),
    /// Shut the write side, go on reading and dropping.
    FinishWrite(ConnectionKey),
    /// Drop the socket. The key is free from now on.
    Close(ConnectionKey),
}

/// What is to be done once the current call, or the current loop over connections, is over.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    /// For the driver, in order.
    pub(crate) actions: VecDeque<Action>,
    /// For the hooks, in order.
    pub(crate) events: Vec<ConnectionEvent>,
    /// Connections to be closed once nobody iterates over them.
    pub(crate) doomed: Vec<ConnectionKey>,
    /// Removed channels, whose handlers are dropped once none of them runs.
    pub(crate) removed: Vec<ChannelKey>,
}
